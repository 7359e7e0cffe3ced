"""Proves that a device's waits are reported: only between steps, and only while there was work."""

from __future__ import annotations

from darkroom.consumer.worker.idle_time import DeviceWaits
from darkroom.inference.types import BatchKey, RowId, StepDone

KEY, ROW = BatchKey(8, 8, "r"), RowId("j", 0)


class Bench:
    """An observer of an engine that does what the test says."""

    def __init__(self) -> None:
        self.has_work = True
        self.waits: list[float] = []
        self.observer = DeviceWaits(lambda: self.has_work, self.waits.append)

    def step_after(self, idle_s: float | None) -> None:
        self.observer.on_engine(StepDone(KEY, (ROW,), (), 0.02, 0, idle_s=idle_s))


def test_a_wait_is_from_one_steps_end_to_the_next_ones_beginning() -> None:
    bench = Bench()
    for idle_s in (None, 0.003, 0.25):
        bench.step_after(idle_s)
    assert bench.waits == [0.003, 0.25], "before the first step there was no device yet"


def test_a_device_without_work_does_not_wait() -> None:
    bench = Bench()
    bench.has_work = False
    bench.step_after(None)
    bench.has_work = True
    bench.step_after(60.0)
    bench.step_after(0.004)
    assert bench.waits == [0.004]


def test_a_failed_step_is_no_wait() -> None:
    bench = Bench()
    for idle_s in (None, None, 0.001):
        bench.step_after(idle_s)
    assert bench.waits == [0.001]
