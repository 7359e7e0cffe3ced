"""One worker process for each device of a machine, started again when it crashes.

Each worker is a whole one, a member of the group by itself. This process only starts them, hands on the word to drain,
and looks at how they end:

    told to end, or status 0        it is over
    status 2 (wrong usage)          it cannot start: all others drain, and the whole ends with status 1
    status 1 (it said what it is)   started again; the third time in a row without having served long, as status 2
    anything else: a crash          started again, later each time up to a bound; it takes its old place on the machine,
                                    by which the journal knows of the crash (`darkroom.consumer.worker.boots`)
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)

_COUNT_GPUS = "import torch; print(torch.cuda.device_count())"
_COUNT_S_MAX = 120.0
"""Importing torch takes seconds, from a cold disk a minute."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Limits of how long is waited and how often something is tried."""

    backoff_s_min: float = 1.0
    """Before the first restart; it doubles."""
    backoff_s_max: float = 30.0
    """A crash a half minute at the most: a bad record is known after a few, and its worker serves on."""
    established_s: float = 600.0
    """A worker that ran for so long had started well: above a model's load and compilation."""
    starts_max: int = 3
    """Starts in a row that may end by the worker's own word."""
    drain_s: float = 60.0
    """From the word to drain to the end, then they are killed: above the workers' own limit."""


def devices_of(asked: str) -> list[str]:
    """The devices that `all` or a list with commas names; `all` without a GPU is one CPU.

    GPUs are counted in a process of its own, because this one stays small and never touches a GPU.
    """
    if asked != "all":
        return [name.strip() for name in asked.split(",") if name.strip()]
    with contextlib.suppress(subprocess.SubprocessError, ValueError):
        counted = subprocess.run(  # noqa: S603 - a constant
            [sys.executable, "-c", _COUNT_GPUS], capture_output=True, text=True, timeout=_COUNT_S_MAX, check=True
        )
        gpus = int(counted.stdout.split()[-1])
        if gpus:
            return [f"cuda:{number}" for number in range(gpus)]
    return ["cpu"]


class Supervisor:
    """Keeps one process for each command running.

    Invariants:

    - A process that was told to end is not started again.
    - No process outlives `run`.
    """

    def __init__(self, commands: Sequence[Sequence[str]], patience: Patience | None = None) -> None:
        """On a running event loop."""
        self._commands = commands
        self._patience = patience or Patience()
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Tell every process to drain. Idempotent."""
        self._ending.set()
        for process in self._running.values():
            _terminate(process)

    async def run(self) -> int:
        """Until all have ended. The exit status: 0 when every one ended with it or was told to and drained."""
        keeping = {asyncio.create_task(self._keep(place, command)) for place, command in enumerate(self._commands)}
        every = list(keeping)
        told = asyncio.create_task(self._ending.wait())
        try:
            while keeping and not self._ending.is_set():
                done, _ = await asyncio.wait({*keeping, told}, return_when=asyncio.FIRST_COMPLETED)
                keeping -= done
                if any(not one.result() for one in done & set(every)):
                    self.end()
            if keeping:
                await asyncio.wait(keeping, timeout=self._patience.drain_s)
        finally:
            told.cancel()
            for process in self._running.values():
                log.error("a worker did not drain in time", pid=process.pid, waited_s=self._patience.drain_s)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        return 0 if all(await asyncio.gather(*every)) else 1

    async def _keep(self, place: int, command: Sequence[str]) -> bool:
        """One process after the other; whether the last one ended well."""
        patience, loop = self._patience, asyncio.get_running_loop()
        backoff_s, refusals = patience.backoff_s_min, 0
        while True:
            began = loop.time()
            try:
                status = await self._run_once(place, command)
            except OSError as error:  # no memory or no process is left at the moment
                log.error("a worker could not be started", place=place, error=str(error))  # noqa: TRY400 - its words do
                status = 1
            if self._ending.is_set() or status == 0:
                return status == 0
            if loop.time() - began >= patience.established_s:
                backoff_s, refusals = patience.backoff_s_min, 0
            refusals = refusals + 1 if status in (1, 2) else 0
            if status == 2 or refusals >= patience.starts_max:
                log.error("a worker cannot start", place=place, status=status, starts=refusals)
                return False
            log.warning("a worker ended and is started again", place=place, status=status, in_s=backoff_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await self._ending.wait()
                return True
            backoff_s = min(2 * backoff_s, patience.backoff_s_max)

    async def _run_once(self, place: int, command: Sequence[str]) -> int:
        # In a session of its own: a terminal's Ctrl-C comes here alone, and is handed on once.
        process = await asyncio.create_subprocess_exec(*command, start_new_session=True)
        self._running[place] = process
        if self._ending.is_set():
            _terminate(process)
        try:
            return await process.wait()
        finally:
            del self._running[place]


def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
