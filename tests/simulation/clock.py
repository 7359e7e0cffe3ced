"""An event loop with a clock of its own, and processes that can be frozen and killed between any two callbacks.

When nothing is ready the clock jumps to the next timer: nobody sleeps and there are no threads. Every callback
belongs to the process in whose context it was scheduled (tasks and timers inherit it). A frozen process's callbacks
are kept until it goes on; a dead one's never run again, and its objects are only forgotten: no `finally`, no
`except CancelledError`. So a process may end at every await point, as it does under `kill -9`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import heapq
from asyncio import base_events, events
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from enum import Enum
from itertools import count
from typing import Any, TypeVar

T = TypeVar("T")

TIMER_RESOLUTION_S = 1e-9
TURNS_MAX = 5000


class Run(Enum):
    """What a process's callbacks do."""

    RUNNING = "running"
    FROZEN = "frozen"
    DEAD = "dead"


class Gate:
    """One process, as the loop sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.run = Run.RUNNING
        self.held: deque[events.Handle] = deque()
        self.tasks: list[asyncio.Task[Any]] = []
        self.fuse: int | None = None
        """Callbacks that still run before `on_fuse`: a death or a freeze at an arbitrary await point."""
        self.on_fuse: Callable[[], None] | None = None

    def unfinished(self) -> list[str]:
        """The tasks that are not done."""
        return [repr(task.get_coro()) for task in self.tasks if not task.done()]


GATE: contextvars.ContextVar[Gate | None] = contextvars.ContextVar("gate", default=None)


class _Counted:
    """Hashes by order of creation, so that sets of tasks and futures have the same order in every run."""

    _serial = count()
    _number: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__new__(cls)
        made._number = next(_Counted._serial)
        return made

    def __hash__(self) -> int:
        return self._number


class SimTask(_Counted, asyncio.Task):  # type: ignore[type-arg]
    """A task with an order."""


class SimFuture(_Counted, asyncio.Future):  # type: ignore[type-arg]
    """A future with an order."""


class VirtualLoop(base_events.BaseEventLoop):
    """Runs callbacks in the order of a virtual clock, in seconds from 0."""

    _ready: deque[events.Handle]
    _scheduled: list[events.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        _Counted._serial = count()  # the order of a set of numbers depends on how large they are
        self._virtual_s = 0.0
        self._over = False
        self._turns_at_this_time = 0
        self.on_standstill: Callable[[], None] | None = None
        """Told when `TURNS_MAX` turns of the loop took no time: something keeps itself busy for ever."""
        self.world: contextvars.Context = contextvars.copy_context()
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """The virtual time."""
        return self._virtual_s

    def create_future(self) -> asyncio.Future[Any]:
        """A future whose hash is its number."""
        future: asyncio.Future[Any] = SimFuture(loop=self)
        return future

    def outside(self, delay_s: float, callback: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Let something happen in the world, whatever becomes of the process that asked for it."""
        return self.call_later(delay_s, callback, *args, context=self.world)

    def in_process(self, gate: Gate) -> contextvars.Context:
        """A context whose callbacks are the process's."""
        context = self.world.copy()
        context.run(GATE.set, gate)
        return context

    def thaw(self, gate: Gate) -> None:
        """Let a frozen process go on where it was."""
        if gate.run is Run.FROZEN:
            gate.run = Run.RUNNING
            self._ready.extend(gate.held)
            gate.held.clear()

    def run_in_executor(  # type: ignore[override]
        self, _executor: Any, function: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """What would run on a thread runs on the loop, a turn later."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(function(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_soon(run)
        return future

    def dispose(self, tasks: list[asyncio.Task[Any]]) -> None:
        """End what was left of dead processes without letting any of it reach the world."""
        self._over = True
        for task in tasks:
            if task.done():
                with contextlib.suppress(asyncio.CancelledError):
                    task.exception()
                continue
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            for _ in range(20):
                try:
                    coroutine = task.get_coro()
                    assert coroutine is not None
                    coroutine.close()
                except (Exception, asyncio.CancelledError):
                    continue
                break
        self._ready.clear()
        self._scheduled.clear()
        self.close()

    # --- What the base class asks for ----------------------------------------------------------------------

    def _call_soon(self, callback: Any, args: Any, context: Any) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        if not self._over:
            self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> events.TimerHandle:
        """As the base class says."""
        timer = events.TimerHandle(when, callback, args, self, context)
        if not self._over:
            heapq.heappush(self._scheduled, timer)
            timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)
        if not self._ready and not self._stopping and self._scheduled:  # type: ignore[attr-defined]
            if self._scheduled[0].when() > self._virtual_s + TIMER_RESOLUTION_S:
                self._turns_at_this_time = 0
            self._virtual_s = max(self._virtual_s, self._scheduled[0].when())
        self._turns_at_this_time += 1
        if self._turns_at_this_time > TURNS_MAX and self.on_standstill is not None:
            self.on_standstill()
        until = self._virtual_s + TIMER_RESOLUTION_S
        while self._scheduled and self._scheduled[0].when() < until:
            self._ready.append(heapq.heappop(self._scheduled))
        if not self._ready and not self._stopping:  # type: ignore[attr-defined]
            raise RuntimeError("nothing is left to happen")
        for _ in range(len(self._ready)):
            if self._stopping:  # type: ignore[attr-defined]
                return
            handle = self._ready.popleft()
            if not handle.cancelled():
                self._run_handle(handle)

    def _run_handle(self, handle: events.Handle) -> None:
        gate = handle._context.get(GATE)  # type: ignore[attr-defined]
        if gate is None:
            handle._run()
            return
        if gate.run is Run.FROZEN:
            gate.held.append(handle)
        elif gate.run is Run.RUNNING:
            handle._run()
            if gate.fuse is not None:
                gate.fuse -= 1
                if gate.fuse <= 0 and gate.on_fuse is not None:
                    gate.fuse = None
                    gate.on_fuse()

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T], **more: Any
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = SimTask(coroutine, loop=loop, **more)
        context = more.get("context")
        gate = GATE.get() if context is None else context.get(GATE)
        if gate is not None:
            if len(gate.tasks) > 256:
                gate.tasks = [one for one in gate.tasks if not one.done()]
            gate.tasks.append(task)
        return task

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """Cancelled timers are passed over when their time comes."""

    def _process_events(self, event_list: Any) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """There are no threads to wake the loop from."""
