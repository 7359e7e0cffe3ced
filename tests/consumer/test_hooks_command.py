"""The command `hooks` where it cannot begin."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from darkroom.command_line import main
from tests.producer.test_callbacks import SECRET


def test_without_a_tenant_it_says_what_to_write() -> None:
    done = CliRunner().invoke(main, ["hooks"], env={"DARKROOM_HOOKS__FILE": ""})
    assert done.exit_code == 2
    assert "DARKROOM_HOOKS__FILE" in done.stderr
    assert "[tenants.NAME]" in done.stderr


@pytest.mark.parametrize("text", ["[tenants.studio]", "[", "[tenants.studio]\nsecrets = ['x']"])
def test_with_a_file_that_cannot_be_used_it_says_why(tmp_path: Path, text: str) -> None:
    file = tmp_path / "callbacks.toml"
    file.write_text(text)
    done = CliRunner().invoke(main, ["hooks"], env={"DARKROOM_HOOKS__FILE": str(file)})
    assert done.exit_code == 1
    assert str(file) in done.stderr
    assert "Traceback" not in done.stderr


def test_with_a_port_that_is_taken_it_says_so(tmp_path: Path) -> None:
    file = tmp_path / "callbacks.toml"
    file.write_text(f'[tenants.studio]\nsecrets = ["{SECRET}"]\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        environment = {
            "DARKROOM_HOOKS__FILE": str(file),
            "DARKROOM_S3__ACCESS_KEY": "x",
            "DARKROOM_S3__SECRET_KEY": "y",
        }
        done = CliRunner().invoke(main, ["hooks", "--metrics-port", port], env=environment)
    assert done.exit_code == 1
    assert "--metrics-port" in done.stderr
