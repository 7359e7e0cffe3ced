"""Processes that outlive whoever started them, and how to know one again.

A pid alone names nothing: it is given again. So a process is known by its pid and by how long after the machine's
start it began; a signal goes out only after both were found to match.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from darkroom.consumer.stack.errors import StackError

KILL_LIMIT_S: Final = 10.0
"""SIGKILL needs no help from the process; what is still there then hangs in the kernel."""
_SAME_START_S: Final = 0.05
_POLL_S: Final = 0.02
_TAIL_BYTES: Final = 64 * 1024

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Our own children, kept so that they are reaped where the starter outlives them (tests, the demo)."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, for as long as the machine runs."""

    pid: int
    started_s: float
    """Seconds from the machine's start to the process's."""


def start(command: Sequence[str], *, environment: Mapping[str, str], directory: Path, log: Path) -> ProcessId:
    """Start a program in a session of its own, so that neither Ctrl-C nor the end of this process reaches it.

    It gets this environment and no other, no input, and appends what it prints to `log`. Raises `StackError`.
    """
    try:
        with log.open("ab") as output:
            child = subprocess.Popen(  # noqa: S603 - the command is ours
                command,
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise StackError(f"{command[0]} cannot be started: {error}. Check that it is there and may be run.") from error
    _children[child.pid] = child
    # A child that is already dead is still a zombie, since nobody has waited for it: its start can be read.
    return _identity(psutil.Process(child.pid))


def is_running(process: ProcessId, *, argument: str | None = None) -> bool:
    """Return whether this very process lives, with the argument on its command line where one is given.

    A zombie does not live.
    """
    found = _found(process)
    if found is None or argument is None:
        return found is not None
    try:
        return argument in found.cmdline()
    except psutil.Error:
        return False


def stop(process: ProcessId, *, limit_s: float) -> None:
    """SIGTERM, and after `limit_s` SIGKILL. Returns when the process is gone; nothing happens where it was.

    A frozen process (SIGSTOP) is thawed, or it could not take the SIGTERM. Raises `StackError` when SIGKILL does
    not help.
    """
    ask_to_stop(process)
    if not _wait_gone(process, limit_s):
        kill(process)


def ask_to_stop(process: ProcessId) -> None:
    """SIGTERM, without waiting."""
    _send(process, signal.SIGTERM)
    _send(process, signal.SIGCONT)


def kill(process: ProcessId) -> None:
    """SIGKILL. Returns when the process is gone. Raises `StackError` when it does not go."""
    _send(process, signal.SIGKILL)
    if not _wait_gone(process, KILL_LIMIT_S):
        raise StackError(
            f"Process {process.pid} is still there {KILL_LIMIT_S:.0f} s after SIGKILL: it hangs in the kernel, most "
            "likely on a disk. Look at that disk; a restart of the machine ends the process."
        )


def find(argument: str) -> list[ProcessId]:
    """Every process that has this argument on its command line, as a whole word."""
    found = []
    for process in psutil.process_iter():
        try:
            if argument in process.cmdline() and not _is_dead(process):
                found.append(_identity(process))
        except psutil.Error:
            continue  # gone meanwhile, or another user's
    return found


def tail(log: Path, *, offset: int, lines: int) -> str:
    """The last lines of a log that were written after `offset` bytes; empty where there are none."""
    try:
        with log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(min(offset, end), end - _TAIL_BYTES))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def _identity(process: psutil.Process) -> ProcessId:
    # Both readings move when the system's clock is set; their difference does not.
    return ProcessId(process.pid, process.create_time() - psutil.boot_time())


def _found(process: ProcessId) -> psutil.Process | None:
    child = _children.get(process.pid)
    if child is not None and child.poll() is not None:
        del _children[process.pid]
    try:
        found = psutil.Process(process.pid)
        if _is_dead(found):
            return None
        same = abs(_identity(found).started_s - process.started_s) < _SAME_START_S
    except psutil.Error:
        return None
    return found if same else None


def _is_dead(found: psutil.Process) -> bool:
    """A zombie whose other threads are still on their way out holds its ports and files until the last has gone."""
    return found.status() == psutil.STATUS_ZOMBIE and found.num_threads() <= 1


def _send(process: ProcessId, number: signal.Signals) -> None:
    found = _found(process)
    if found is None:
        return
    try:
        found.send_signal(number)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise StackError(f"Process {process.pid} belongs to another user. Stop the stack as that user.") from error


def _wait_gone(process: ProcessId, limit_s: float) -> bool:
    end = time.monotonic() + limit_s
    while is_running(process):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
    return True
