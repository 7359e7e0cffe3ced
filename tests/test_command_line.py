"""Proves that every command answers `--help` with an example, fails with one sentence, and knows wrong usage."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import darkroom
from darkroom.command_line import COMMANDS

COMMANDS = list(COMMANDS)


def called(*arguments: str) -> Result:
    """Call the command in this process: no test of usage needs a Python of its own."""
    return CliRunner().invoke(darkroom.main, list(arguments), prog_name="darkroom")


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "darkroom", *arguments], capture_output=True, text=True, check=False, cwd=cwd, timeout=60
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    done = called(command, "--help")
    assert done.exit_code == 0, done.stderr
    _, _, example = " ".join(done.stdout.split()).partition(" Example")
    assert f"darkroom {command}" in example


def test_the_front_page_names_every_command() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f"  {command} " in done.stdout for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("serve", "--no-such-flag"),
        ("send", "--steps", "many"),
        ("calibrate", "--sizes", "large"),
        ("calibrate", "--max-rows", "0"),
    ],
)
def test_wrong_usage_is_exit_code_two(arguments: tuple[str, ...]) -> None:
    done = called(*arguments)
    assert done.exit_code == 2
    assert "Error: " in done.stderr


def test_effective_settings_are_shown_with_secrets_masked(tmp_path: Path) -> None:
    config = tmp_path / "darkroom.toml"
    config.write_text('[s3]\naccess_key = "visible-id"\nsecret_key = "not-to-be-seen"\n[batch]\nmax_rows = 3\n')
    done = run("serve", "--config", str(config), "--max-rows", "5", "--show-settings", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["DARKROOM_BATCH__MAX_ROWS"] == 5, "flags win over the file"
    assert "not-to-be-seen" not in done.stdout
    assert shown["DARKROOM_S3__SECRET_KEY"]


@pytest.mark.parametrize("command", [("serve", "--simulated-device", "0", "--metrics-port", "0"), ("audit",)])
def test_kafka_that_is_not_there_is_one_sentence_with_a_remedy(command: tuple[str, ...], tmp_path: Path) -> None:
    config = tmp_path / "darkroom.toml"
    config.write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\nrequest_timeout_ms = 1000\n')
    done = run(*command, "--config", str(config), cwd=tmp_path)
    assert done.returncode == 1
    [sentence] = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "127.0.0.1:1" in sentence
    assert "Traceback" not in done.stderr


def test_the_public_names_are_there() -> None:
    from darkroom import Client, Completion, GenerationRequest, Settings, load_settings

    assert all((Client, Completion, GenerationRequest, Settings, load_settings))
    with pytest.raises(AttributeError):
        darkroom.no_such_name  # noqa: B018
