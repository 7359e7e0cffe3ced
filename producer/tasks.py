"""Owns the background tasks of a process, so that none of them ends unnoticed.

There are two kinds of task:

    kept      follows or watches something until the process ends. When it ends before that, it is started again after
              a growing pause, counted, and named by readiness until it runs again.
    spawned   does one thing. When it fails with an exception that its own code did not expect, nobody knows what state
              it left behind, so its owner is told, and ends the process.

It logs by the standard library, because a program that embeds the client has configured nothing else.
`KeyboardInterrupt` and `SystemExit` are neither: asyncio carries them out of the event loop, and the process ends.
"""

from __future__ import annotations

import asyncio
import logging
import random
import traceback
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")

EXCEPTION_CHARACTERS_MAX: Final = 300
"""The length to which an exception is cut in a sentence: a library's can quote a whole response."""


CANCEL_AGAIN_S: Final = 1.0
"""Between two cancellations of a task that has not ended: longer than a task needs that ends at the first."""


class TaskFailed(Exception):  # noqa: N818 - named for what happened
    """A task ended by an exception that nobody expected: one sentence with its name. The exception is the cause."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(
            f"The task {name!r} ended unexpectedly with {described(error)}. The process ends, so that a restart takes "
            "up its work; the log has the traceback."
        )
        self.name = name


@dataclass(frozen=True, slots=True)
class Backoff:
    """The pauses before a kept task is started again."""

    s_min: float = 0.5
    """Before the first restart; it doubles with each further one."""
    s_max: float = 30.0
    """A task that can never run costs two log lines a minute, and comes back within this time once it can."""
    proven_s: float = 2.0
    """A task that has run again for so long is taken to be well: readiness no longer names it."""
    steady_s: float = 60.0
    """A task that has run for so long starts again after `s_min`."""
    jitter: float = 0.25
    """The share of a pause that is drawn by chance, so that the tasks of a fleet do not come back together."""

    def pause_s(self, restarts: int, drawn: float) -> float:
        """Return the pause before the restart after so many others in a row. `drawn` is in 0..1."""
        longest = min(self.s_max, self.s_min * 2.0 ** min(restarts, 30))
        return longest * (1.0 - self.jitter * drawn)


@dataclass(slots=True)
class _Kept:
    """A task that is started again whenever it ends."""

    name: str
    work: Callable[[], Awaitable[None]]
    matters: str | None
    down_by: str | None = None
    """The exception that ended it, until it is proven to run again."""
    restarts: int = 0
    """Restarts in a row: none of the runs between them was steady."""
    told: str | None = None
    """The place and the kind of the exception whose traceback was logged last."""


class TaskSupervisor:
    """The owner of some tasks on one event loop; none of them outlives `close`.

    Invariants:

    - `a_kept_task_runs_or_is_named`: at any time it runs, or is about to be started again and named by `unready`.
    - `no_failure_is_lost`: a spawned task's exception reaches `on_failed`, unless the supervisor was closed.
    """

    def __init__(
        self,
        *,
        on_kept: Callable[[str], None] = lambda _name: None,
        on_restart: Callable[[str], None] = lambda _name: None,
        on_failed: Callable[[TaskFailed], None] | None = None,
        backoff: Backoff | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`on_kept` is told of each kept task once, `on_restart` of each restart, `on_failed` of a spawned task.

        Without `on_failed` a spawned task's exception is only logged. `draw` gives numbers in 0..1 for the jitter.
        """
        self._on_kept = on_kept
        self._on_restart = on_restart
        self._on_failed = on_failed
        self._backoff = backoff or Backoff()
        self._draw = draw
        self._kept: dict[str, _Kept] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def keep(self, name: str, work: Callable[[], Awaitable[None]], *, matters: str | None = None) -> None:
        """Run `work` until `close`, again and again. `name` is the label of its metric.

        `matters` ends the sentence of readiness while it does not run ("completions are not followed"); without it
        the process is ready all the same.
        """
        kept = _Kept(name, work, matters)
        self._kept[name] = kept
        self._on_kept(name)
        self._own(asyncio.get_running_loop().create_task(self._run(kept), name=name))

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` once. Whoever holds the task may cancel it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._own(task)
        task.add_done_callback(self._look_at_the_end)
        return task

    def unready(self) -> list[str]:
        """Return a sentence for each kept task that matters and does not run. May be called from any thread."""
        return [
            f"The task {one.name!r} was ended by {one.down_by} and is being restarted: {one.matters}."
            for one in list(self._kept.values())
            if one.down_by is not None and one.matters is not None
        ]

    async def close(self, sparing: Collection[asyncio.Task[Any]] = ()) -> None:
        """Cancel the tasks, except for those to be spared, and wait for all of them. Idempotent.

        A task is cancelled again while it runs on: before Python 3.12 `asyncio.wait_for` loses a cancellation that
        comes in the moment in which what it waits for is done (python/cpython#86296), and work that goes round in a
        circle would then never end.
        """
        self._closed = True
        owned = list(self._tasks)
        await cancel_until_done(owned, sparing)
        await asyncio.gather(*owned, return_exceptions=True)

    def _own(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, kept: _Kept) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            proof = None if kept.down_by is None else loop.call_later(self._backoff.proven_s, self._prove, kept)
            try:
                await kept.work()
                error: BaseException = RuntimeError("it returned, although it should run until it is cancelled")
            except (KeyboardInterrupt, SystemExit, GeneratorExit):
                raise
            except BaseException as unexpected:
                # A cancellation that nobody here asked for leaked out of a library: the task is not to end of it.
                if _is_beingcancel_until_done():
                    raise
                error = unexpected
            finally:
                if proof is not None:
                    proof.cancel()
            if loop.time() - began >= self._backoff.steady_s:
                kept.restarts = 0
            pause_s = self._backoff.pause_s(kept.restarts, self._draw())
            kept.restarts += 1
            kept.down_by = described(error)
            self._tell(kept, error, pause_s)
            del error  # its traceback would keep the frames, and what they hold, for as long as the task runs
            await asyncio.sleep(pause_s)
            self._on_restart(kept.name)

    def _tell(self, kept: _Kept, error: BaseException, pause_s: float) -> None:
        """Log the end: with its traceback when that is new, as a line when it repeats the one before."""
        place = _place_of(error)
        shown = None if place == kept.told else error
        kept.told = place
        fields = {"task": kept.name, "error": kept.down_by, "in_s": round(pause_s, 3), "restarts": kept.restarts}
        log.error("a background task ended unexpectedly and is restarted: %s", kept.name, exc_info=shown, extra=fields)

    def _prove(self, kept: _Kept) -> None:
        kept.down_by = None
        log.info("a background task runs again: %s", kept.name, extra={"task": kept.name})

    def _look_at_the_end(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            if self._closed or task.cancelling():
                return
            error: BaseException | None = asyncio.CancelledError("nobody had cancelled it")
        else:
            error = task.exception()
        if error is None or isinstance(error, (KeyboardInterrupt, SystemExit)):
            return
        name, said = task.get_name(), described(error)
        log.error("a task ended unexpectedly: %s", name, exc_info=error, extra={"task": name, "error": said})
        if self._on_failed is not None:
            failed = TaskFailed(task.get_name(), error)
            failed.__cause__ = error
            self._on_failed(failed)


def run(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """As `asyncio.run`, except that a task that loses its cancellation keeps neither Ctrl-C nor the end waiting.

    `asyncio.run` cancels the work once when Ctrl-C is pressed, and in the end every task that is left, and then waits
    without a limit. A task whose library loses a cancellation (see `TaskSupervisor.close`) would hold the process for
    ever; here it is cancelled again every `CANCEL_AGAIN_S`.
    """
    with asyncio.Runner() as runner:
        try:
            return runner.run(_led(work))
        finally:
            runner.run(_cancel_the_others())


async def _led(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        await cancel_until_done({task})
        if task.cancelled():
            raise
    return task.result()


async def _cancel_the_others() -> None:
    others = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
    await cancel_until_done(others)
    await asyncio.gather(*others, return_exceptions=True)


async def cancel_until_done(tasks: Collection[asyncio.Task[Any]], sparing: Collection[asyncio.Task[Any]] = ()) -> None:
    """Cancel these tasks except for those to be spared, again and again, until all of them have ended."""
    while running := {task for task in tasks if not task.done()}:
        for task in running.difference(sparing):
            task.cancel()
        await asyncio.wait(running, timeout=CANCEL_AGAIN_S)


def described(error: BaseException) -> str:
    """Return an exception's type and message in one line, cut to a length that fits a sentence."""
    said = " ".join(str(error).split())
    text = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return text if len(text) <= EXCEPTION_CHARACTERS_MAX else text[: EXCEPTION_CHARACTERS_MAX - 3] + "..."


def _is_beingcancel_until_done() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _place_of(error: BaseException) -> str:
    """Return what tells one cause from another: the exception's type, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__} {place}"
