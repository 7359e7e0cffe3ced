"""Starts servers side by side and waits until each does its work."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from darkroom.consumer.stack import process
from darkroom.consumer.stack.errors import StackError
from darkroom.consumer.stack.process import ProcessId
from darkroom.consumer.stack.server import Ports, Report, Server

_POLL_S: Final = 0.03
_TAIL_LINES: Final = 12
_LOG_BYTES_MAX: Final = 8 * 1024 * 1024


class Start(NamedTuple):
    """A server that is to run: `running` is its process where it does already."""

    server: Server
    ports: Ports
    log: Path
    running: ProcessId | None


class _Awaited(NamedTuple):
    start: Start
    process: ProcessId
    log_offset: int


def launch(
    starts: Mapping[str, Start], *, limit_s: float, started: Callable[[str, ProcessId], None], report: Report
) -> None:
    """Start what does not run, and return when all are ready.

    `started` is told of each process before anything else happens. Raises `StackError`, with the end of the log,
    when a server dies or is not ready within `limit_s`; what was started then still runs.
    """
    begun = time.monotonic()
    waiting: list[_Awaited] = []
    for name, start in starts.items():
        offset = _trimmed(start.log)
        running = start.running
        if running is None:
            running = process.start(
                start.server.command(start.ports),
                environment=start.server.environment(),
                directory=start.server.folder,
                log=start.log,
            )
            started(name, running)
        waiting.append(_Awaited(start, running, offset))
    while waiting:
        for awaited in list(waiting):
            server, ports = awaited.start.server, awaited.start.ports
            if not process.is_running(awaited.process):
                raise _died(awaited)
            if server.is_ready(ports):
                waiting.remove(awaited)
                if awaited.start.running is None:
                    seconds = time.monotonic() - begun
                    report(f"{server.title} ready on {server.address(ports)} in {seconds:.1f} s")
            elif time.monotonic() - begun > limit_s:
                raise _silent(awaited, limit_s)
        if waiting:
            time.sleep(_POLL_S)


def _trimmed(log: Path) -> int:
    """The log's size, after a long one was moved out of the way."""
    try:
        size = log.stat().st_size
        if size > _LOG_BYTES_MAX:
            log.replace(log.with_suffix(".old.log"))
            return 0
    except FileNotFoundError:
        return 0
    return size


def _died(awaited: _Awaited) -> StackError:
    said = process.tail(awaited.start.log, offset=awaited.log_offset, lines=_TAIL_LINES)
    title = awaited.start.server.title
    remedy = f"The whole log is {awaited.start.log}."
    if "address already in use" in said.lower():
        remedy = f"Another program took its port meanwhile: run `darkroom up` again. {remedy}"
    return StackError(f"{title} ended while it started. {remedy} It ends with:\n{said or '(it said nothing)'}")


def _silent(awaited: _Awaited, limit_s: float) -> StackError:
    server, ports, log, _ = awaited.start
    said = process.tail(log, offset=awaited.log_offset, lines=_TAIL_LINES)
    return StackError(
        f"{server.title} (process {awaited.process.pid}) does not do its work on {server.address(ports)} after "
        f"{limit_s:.0f} s. Give it longer with DARKROOM_STACK_START_LIMIT_S, or run `darkroom down` and `darkroom up`. "
        f"The whole log is {log}. It ends with:\n{said or '(it said nothing)'}"
    )
