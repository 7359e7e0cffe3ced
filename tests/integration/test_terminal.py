"""Proves what commands show to a person at a terminal, where a pipe gets JSON."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.integration.fleet import Fleet, wait_until

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

LIMIT_S = 60.0


@pytest.fixture(scope="module")
def fleet(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One worker that takes 20 ms a step."""
    made = Fleet(stack.environment, tmp_path_factory.mktemp("terminal"))
    asyncio.run(made.make_topics())
    worker = made.start("--simulated-device", "20")
    try:
        worker.wait_ready()
        yield made
    finally:
        made.stop()


class AtTerminal:
    """A command whose output and errors are a terminal's."""

    def __init__(self, fleet: Fleet, *arguments: str) -> None:
        self._read, terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "darkroom", *arguments],
            env={**os.environ, **fleet.environment, "COLUMNS": "300", "TERM": "xterm"},
            stdout=terminal,
            stderr=terminal,
        )
        os.close(terminal)
        os.set_blocking(self._read, False)
        self._text = b""

    def shown(self) -> str:
        """What it has shown so far."""
        try:
            while piece := os.read(self._read, 65_536):
                self._text += piece
        except OSError:  # nothing new, or the command has ended
            pass
        return self._text.decode()

    def end(self) -> tuple[int, str]:
        """Wait for its end; return its exit code and all that it showed."""
        wait_until(lambda: self.shown() is not None and self.process.poll() is not None, LIMIT_S, "the command to end")
        text = self.shown()
        os.close(self._read)
        return self.process.returncode, text


def piped(fleet: Fleet, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "darkroom", *arguments],
        env={**os.environ, **fleet.environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    ).stdout


def test_completions_and_the_audit_are_words_on_a_terminal_and_json_in_a_pipe(fleet: Fleet) -> None:
    code, text = AtTerminal(fleet, "send", "--prompt", "a dancer", "--steps", "2", "--wait").end()
    assert code == 0, text
    assert "succeeded" in text
    assert "{" not in text
    asked_for = AtTerminal(fleet, "send", "--prompt", "a dancer", "--steps", "2", "--wait", "--json").end()[1]
    assert '"status":"succeeded"' in asked_for
    assert json.loads(piped(fleet, "send", "--prompt", "a dancer", "--steps", "2", "--wait"))["status"] == "succeeded"
    code, text = AtTerminal(fleet, "audit").end()
    assert code == 0, text
    assert "3  records" in text
    assert "Nothing is missing, duplicated or corrupt." in text
    assert json.loads(piped(fleet, "audit"))["records"] == 3


def test_whoever_stops_waiting_is_told_what_goes_on(fleet: Fleet) -> None:
    sending = AtTerminal(
        fleet, "send", "--prompt", "a dancer", "--steps", "150", "--repeat", "12", "--request-id", "long", "--wait"
    )
    wait_until(lambda: "requests" in sending.shown(), LIMIT_S, "the bar of the requests")
    sending.process.send_signal(signal.SIGINT)
    code, text = sending.end()
    assert code == 1
    assert "requests go on without you" in text
    assert "default/long-1" in text
    assert "and 2 more" in text
    assert "darkroom cancel" in text
    assert "Traceback" not in text


def test_doctor_without_the_packages_for_rendering_says_what_to_install(fleet: Fleet) -> None:
    absent = "import sys; sys.modules.update(torch=None, diffusers=None, transformers=None)"
    done = subprocess.run(
        [sys.executable, "-c", f"{absent}; from darkroom.command_line import main; main(['doctor', '--json'])"],
        env={**os.environ, **fleet.environment},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    checks = json.loads(done.stdout)
    assert checks["model"]["says"] == "the package torch is not installed"
    assert "darkroom[render]" in checks["model"]["remedy"]
    assert not any("the check itself failed" in one["says"] for one in checks.values()), checks


def test_a_worker_s_log_is_for_people_on_a_terminal(fleet: Fleet) -> None:
    worker = AtTerminal(fleet, "serve", "--simulated-device", "0", "--metrics-port", "0")
    wait_until(lambda: "ready" in worker.shown(), LIMIT_S, "the worker to say that it is ready")
    worker.process.terminate()
    _, text = worker.end()
    assert '{"' not in text
    assert "health and metrics" in text
