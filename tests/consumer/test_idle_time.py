"""Proves that a device's waits are told: only between steps, and only while there was work."""

from __future__ import annotations

import pytest

from darkroom.consumer.worker.idle_time import TimedEngine
from darkroom.inference.contract import BatchKey, Engine, FaultKind, Listener, RenderFault, RowId, StepDone, StepFailed
from darkroom.schemas.errors import ErrorCode

KEY, ROW = BatchKey(8, 8, "r"), RowId("j", 0)


class Speaking(Engine):
    """An engine that says what the test makes it say."""

    profile = None

    def start(self, listener: Listener) -> None:
        self.say = listener

    def rows_ceiling(self, batch_key: BatchKey) -> None:
        return None


class Bench:
    """A timed engine under a clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now, self.has_work = 100.0, True
        self.waits: list[float] = []
        self.heard: list[object] = []
        self.engine = Speaking()
        TimedEngine(self.engine, lambda: self.has_work, self.waits.append, lambda: self.now).start(self.heard.append)

    def step_after(self, idle_s: float) -> None:
        self.now += idle_s + 0.02
        self.engine.say(StepDone(KEY, (ROW,), (), 0.02, 0))


def test_a_wait_is_from_one_steps_end_to_the_next_ones_beginning() -> None:
    bench = Bench()
    for idle_s in (5.0, 0.003, 0.25):
        bench.step_after(idle_s)
    assert bench.waits == [pytest.approx(0.003), pytest.approx(0.25)], "before the first step there was no device yet"
    assert len(bench.heard) == 3


def test_a_device_without_work_does_not_wait() -> None:
    bench = Bench()
    bench.has_work = False
    bench.step_after(0.0)
    bench.has_work = True
    bench.step_after(60.0)
    bench.step_after(0.004)
    assert bench.waits == [pytest.approx(0.004)]


def test_a_failed_step_is_no_wait() -> None:
    bench = Bench()
    bench.step_after(0.0)
    bench.engine.say(StepFailed((ROW,), RenderFault(FaultKind.BATCH, ErrorCode.RENDER_FAILED, "broken")))
    bench.step_after(0.5)
    bench.step_after(0.001)
    assert bench.waits == [pytest.approx(0.001)]
