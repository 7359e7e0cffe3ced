"""`up`, `down` and `status` at their edges: exit codes, one clear sentence, and what is printed where."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from darkroom.consumer.cli.stack import down, status, up
from darkroom.consumer.stack import Stack


@pytest.mark.parametrize("command", [up, down, status])
def test_help_has_an_example_and_wrong_usage_exits_with_2(command: object) -> None:
    shown = CliRunner().invoke(command, ["--help"])  # type: ignore[arg-type]
    assert shown.exit_code == 0
    assert "Example: " in shown.output
    assert "--json" in shown.output
    wrong = CliRunner().invoke(command, ["--folder", "x"])  # type: ignore[arg-type]
    assert wrong.exit_code == 2


def test_nothing_runs_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    folder = tmp_path / "none"
    found = CliRunner().invoke(status, ["--dir", str(folder), "--json"])
    assert found.exit_code == 1
    assert json.loads(found.stdout)["running"] is False
    stopped = CliRunner().invoke(down, ["--dir", str(folder), "--json"])
    assert stopped.exit_code == 0
    assert json.loads(stopped.stdout) == {"stopped": []}
    assert not folder.exists()


def test_the_folder_can_be_a_variable(tmp_path: Path) -> None:
    found = CliRunner().invoke(status, ["--json"], env={"DARKROOM_STACK_DIR": str(tmp_path)})
    assert json.loads(found.stdout)["directory"] == str(tmp_path)


def test_offline_up_is_one_sentence_and_starts_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    offline = {
        "DARKROOM_STACK_MAVEN_URL": f"http://127.0.0.1:{port}",
        "DARKROOM_STACK_CACHE_DIR": str(tmp_path / "cache"),
    }
    failed = CliRunner().invoke(up, ["--dir", str(tmp_path / "d")], env=offline)
    assert failed.exit_code == 1
    assert failed.stdout == ""
    error = failed.stderr.splitlines()[-1]
    assert error.startswith("Error: Kafka")
    assert "Check the network" in error
    assert not Stack(tmp_path / "d").status().servers["s3"].running


def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    failed = CliRunner().invoke(up, ["--dir", str(tmp_path)], env={"DARKROOM_STACK_START_LIMIT_S": "soon"})
    assert failed.exit_code == 1
    assert "DARKROOM_STACK_START_LIMIT_S cannot be used" in failed.stderr


@pytest.mark.stack
def test_what_runs_is_printed_for_people_shells_and_machines(stack: Stack) -> None:
    folder = ["--dir", str(stack.directory)]
    machine = CliRunner().invoke(up, [*folder, "--json"])
    assert machine.exit_code == 0
    assert json.loads(machine.stdout) == stack.environment
    shell = CliRunner().invoke(up, folder)
    assert f"export DARKROOM_S3__BUCKET={stack.environment['DARKROOM_S3__BUCKET']}" in shell.stdout.splitlines()
    assert all(line.startswith("export DARKROOM_") for line in shell.stdout.splitlines())
    people = CliRunner().invoke(status, folder)
    assert people.exit_code == 0
    assert people.stdout.count("ready") == 2
    found = json.loads(CliRunner().invoke(status, [*folder, "--json"]).stdout)
    assert found["running"] is True
    assert found["servers"]["kafka"]["address"] == stack.environment["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"]
    assert stack.environment["DARKROOM_S3__SECRET_KEY"] not in json.dumps(found)
