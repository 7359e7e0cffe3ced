"""Only the very process that was started is signalled, and it outlives whoever started it."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from darkroom.consumer.stack import process
from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.process import ProcessId

Starter = Callable[..., ProcessId]
LIMIT_S = 20.0


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start Python code as the stack starts its servers; killed at the end."""
    started: list[ProcessId] = []

    def start_code(code: str, *arguments: str) -> ProcessId:
        started.append(
            process.start(
                [sys.executable, "-c", code, *arguments],
                environment={"ONLY": "this"},
                directory=tmp_path,
                log=tmp_path / "log",
            )
        )
        return started[-1]

    yield start_code
    for each in started:
        process.kill(each)


def test_a_process_has_its_own_session_its_folder_its_environment_and_its_log(start: Starter, tmp_path: Path) -> None:
    code = "import os; print(os.getcwd(), os.getsid(0) == os.getpid(), os.environ.get('ONLY'), os.environ.get('HOME'))"
    started = start(code)
    eventually(lambda: not process.is_running(started))
    assert (tmp_path / "log").read_text() == f"{tmp_path} True this None\n"


def test_a_process_outlives_its_starter(tmp_path: Path) -> None:
    starter = (
        "import sys; from pathlib import Path; from darkroom.consumer.stack import process; folder = Path(sys.argv[1]);"
        "started = process.start([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " environment={}, directory=folder, log=folder / 'log'); print(started.pid, started.started_s)"
    )
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", starter, str(tmp_path)], capture_output=True, text=True, check=True
    )
    pid, started_s = printed.stdout.split()
    left = ProcessId(int(pid), float(started_s))
    assert process.is_running(left)
    process.stop(left, limit_s=LIMIT_S)
    assert not process.is_running(left)


def test_a_reused_pid_is_somebody_else_and_is_left_alone(start: Starter) -> None:
    stranger = start("import time; time.sleep(60)")
    earlier = dataclasses.replace(stranger, started_s=stranger.started_s - 1)
    assert not process.is_running(earlier)
    process.stop(earlier, limit_s=0.1)
    process.kill(earlier)
    assert process.is_running(stranger)


def test_a_dead_child_is_not_running_and_leaves_no_zombie(start: Starter) -> None:
    child = start("pass")
    eventually(lambda: not process.is_running(child))
    assert not psutil.pid_exists(child.pid)


def test_sigterm_comes_first(start: Starter, tmp_path: Path) -> None:
    polite = start(
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit()));"
        "print('ready', flush=True); time.sleep(60)"
    )
    eventually(lambda: "ready" in (tmp_path / "log").read_text())
    process.stop(polite, limit_s=LIMIT_S)
    assert (tmp_path / "log").read_text().split() == ["ready", "bye"]


def test_one_that_ignores_sigterm_is_killed(start: Starter, tmp_path: Path) -> None:
    stubborn = start(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )
    eventually(lambda: "ready" in (tmp_path / "log").read_text())
    process.stop(stubborn, limit_s=0.2)
    assert not process.is_running(stubborn)


def test_a_frozen_one_is_thawed_to_take_its_sigterm(start: Starter) -> None:
    frozen = start("import time; time.sleep(60)")
    os.kill(frozen.pid, signal.SIGSTOP)
    eventually(lambda: psutil.Process(frozen.pid).status() == psutil.STATUS_STOPPED)
    begun = time.monotonic()
    process.stop(frozen, limit_s=LIMIT_S)
    assert time.monotonic() - begun < LIMIT_S


def test_processes_are_found_by_a_whole_argument(start: Starter) -> None:
    ours = start("import time; time.sleep(60)", "-dir=/data/one")
    start("import time; time.sleep(60)", "-dir=/data/one-more")
    eventually(lambda: bool(process.find("-dir=/data/one")))
    assert process.find("-dir=/data/one") == [ours]


def test_a_program_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="/no/such/java cannot be started"):
        process.start(["/no/such/java"], environment={}, directory=tmp_path, log=tmp_path / "log")


def test_the_tail_of_a_log_is_what_came_after_the_offset(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("old\n")
    offset = log.stat().st_size
    with log.open("a") as file:
        file.write("".join(f"line {number}\n" for number in range(10)))
    assert process.tail(log, offset=offset, lines=2) == "line 8\nline 9"
    assert "old" not in process.tail(log, offset=offset, lines=100)
    assert process.tail(tmp_path / "none", offset=0, lines=5) == ""
