"""The contenders of `tests.bench.poisson` in real time, on one loaded device: Darkroom, and batches of whole requests.

Whoever is measured prepares and finishes on threads of its own, beside the steps, and was warmed on those threads.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final

from darkroom.consumer.core.journal import UNNAMED_BOOT
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.planner.member import Member
from darkroom.consumer.planner.topic import Arrival, Delays, Topic
from darkroom.consumer.planner.virtual import DeviceListener
from darkroom.inference.engine import LaneEngine
from darkroom.inference.planning.profile import DeviceProfile
from darkroom.inference.types import (
    BatchKey,
    EngineEvent,
    JobPrepared,
    JobRendered,
    RenderJob,
    RenderRequest,
    RowId,
    StepDone,
)
from tests.bench.one_worker import Run
from tests.bench.queues import take_together

ROWS_MAX: Final = 8
WAIT_S: Final = 300.0


class _LoadedDevice:
    """The device for one more engine, which is to load and close nothing."""

    def __init__(self, device: Any) -> None:
        self._device = device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def load(self) -> None:
        pass

    def close(self) -> None:
        pass


class _RealClock:
    """Calls in their time on one thread, where engine events are taken too."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, int, Any]] = []
        self._asked = count()
        self._began = time.perf_counter()
        self.events: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()

    def begin(self) -> None:
        """Count from now."""
        self._began = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._began

    def later(self, seconds: float, call: Any) -> None:
        heappush(self._calls, (self.now() + seconds, next(self._asked), call))

    def run(self, topic: Topic, listener: DeviceListener) -> None:
        until = self.now() + WAIT_S
        while topic.unanswered:
            if self.now() > until:
                raise TimeoutError(f"{topic.unanswered} requests were not answered within {WAIT_S:.0f} s")
            while self._calls and self._calls[0][0] <= self.now():
                heappop(self._calls)[2]()
            wait_s = 0.1 if not self._calls else max(0.0, min(0.1, self._calls[0][0] - self.now()))
            try:
                _tell(listener, self.events.get(timeout=wait_s) if wait_s else self.events.get_nowait())
            except queue.Empty:
                continue


def _tell(listener: DeviceListener, event: EngineEvent) -> None:
    match event:
        case JobPrepared():
            listener.prepared(event.job_id, event.batch_key, event.caps)
        case StepDone(retired=retired) if retired:
            listener.boundary(retired)
        case JobRendered():
            listener.rendered(event.job_id)


class _EngineSide:
    def __init__(self, engine: LaneEngine[Any]) -> None:
        self._engine = engine
        self.listener: DeviceListener

    def listening(self, listener: DeviceListener) -> _EngineSide:
        self.listener = listener
        return self

    def prepare(self, job_id: str, request: RenderRequest, key: BatchKey) -> None:
        self._engine.prepare(RenderJob(job_id, request))

    def admit(self, rows: Sequence[RowId]) -> None:
        self._engine.admit(rows)

    def set_cap(self, batch_key: BatchKey, rows: int) -> None:
        self._engine.set_cap(batch_key, rows)

    def drop(self, job_id: str) -> None:
        self._engine.drop(job_id)

    def close(self) -> None:
        pass


def darkroom(device: Any, profile: DeviceProfile, load: Sequence[Arrival]) -> Run:
    """The real core and the real engine, on the loaded device."""
    engine: LaneEngine[Any] = LaneEngine(_LoadedDevice(device), rows_max=ROWS_MAX, calibration=lambda _: profile)
    clock, side = _RealClock(), _EngineSide(engine)
    topic = Topic(load, [0] * len(load), 1)
    limits, delays = Limits(batch_rows_max=ROWS_MAX), Delays()
    member = Member(
        "ours",
        topic,
        clock,
        side.listening,
        limits=limits,
        boot=UNNAMED_BOOT,
        delays=delays,
        open_s=0.0,
        on_left=lambda _: None,
    )

    def arrive(number: int) -> None:
        member.deliver(topic.append(number))

    engine.start(clock.events.put)
    try:
        _warm_lanes(engine, clock.events, load[0])
        clock.begin()
        for number, arrival in enumerate(load):
            clock.later(arrival.at_s, partial(arrive, number))
        member.start()
        member.assigned(frozenset({0}))
        clock.run(topic, side.listener)
    finally:
        engine.close()
    return Run([at - arrival.at_s for at, arrival in zip(topic.answered_at, load, strict=True)])


def _warm_batches(first: Arrival) -> Iterator[list[RenderJob]]:
    """Batches of every size, two steps each. The library keeps what it sets up for a shape by thread, so whoever is
    measured has been there before, on its own threads."""
    for rows in range(1, ROWS_MAX + 1):
        request = replace(first.request, steps=2)
        yield [RenderJob(f"warm-{rows}-{number}", request) for number in range(rows)]


def _warm_lanes(engine: LaneEngine[Any], events: queue.SimpleQueue[EngineEvent], first: Arrival) -> None:
    for jobs in _warm_batches(first):
        left = {JobPrepared: len(jobs), JobRendered: len(jobs)}
        for job in jobs:
            engine.prepare(job)
        while left[JobRendered]:
            event = events.get(timeout=WAIT_S)
            if isinstance(event, JobPrepared | JobRendered):
                left[type(event)] -= 1
                if isinstance(event, JobPrepared) and not left[JobPrepared]:
                    engine.admit([RowId(job.job_id, 0) for job in jobs])


class WholeRequests:
    """Batches of up to `cap` whole requests in real time; prepared and finished on threads of their own, as ours."""

    def __init__(self, device: Any, load: Sequence[Arrival], cap: int, *, equal_steps: bool) -> None:
        self._device = device
        self._load = load
        self._cap = cap
        self._equal_steps = equal_steps
        self._latencies_s = [0.0] * len(load)
        self._began = 0.0
        self._warm = threading.Event()
        self._go = threading.Event()
        self._rows: dict[int, Any] = {}
        self._waiting: list[int] = []
        self._some_waits = threading.Condition()
        self._to_finish: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()

    def run(self) -> Run:
        lanes = [threading.Thread(target=lane, daemon=True) for lane in (self._prepare, self._finish)]
        for lane in lanes:
            lane.start()
        for jobs in _warm_batches(self._load[0]):
            self._denoise([(-1, self._device.prepare(job).rows[0]) for job in jobs])
        if not self._warm.wait(WAIT_S):
            raise TimeoutError("the warm-up was not finished")
        self._began = time.perf_counter()
        self._go.set()
        left = len(self._load)
        while left:
            batch = self._take()
            self._denoise([(one, self._rows.pop(one)) for one in batch])
            left -= len(batch)
        self._to_finish.put(None)
        for lane in lanes:
            lane.join(WAIT_S)
        return Run(self._latencies_s)

    def _take(self) -> list[int]:
        with self._some_waits:
            if not self._some_waits.wait_for(lambda: self._waiting, WAIT_S):
                raise TimeoutError("no request was prepared")
            batch = take_together(self._waiting, self._load, self._cap, equal_steps=self._equal_steps)
            self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    def _denoise(self, batch: list[tuple[int, Any]]) -> None:
        """To the end of its longest; pictures leave together."""
        while going := [row for _, row in batch if row.steps_done < row.steps_total]:
            self._device.step(going)
        for one in batch:
            self._to_finish.put(one)

    def _prepare(self) -> None:
        self._go.wait(WAIT_S)
        for number, arrival in enumerate(self._load):
            time.sleep(max(0.0, self._began + arrival.at_s - time.perf_counter()))
            [row] = self._device.prepare(RenderJob(str(number), arrival.request)).rows
            with self._some_waits:
                self._rows[number] = row
                self._waiting.append(number)
                self._some_waits.notify()

    def _finish(self) -> None:
        warm = ROWS_MAX * (ROWS_MAX + 1) // 2
        while (finished := self._to_finish.get()) is not None:
            number, row = finished
            self._device.finish([row])
            if number < 0:
                warm -= 1
                if not warm:
                    self._warm.set()
                continue
            self._latencies_s[number] = time.perf_counter() - self._began - self._load[number].at_s
