"""An engine over a device that cannot hold all lanes at once: they take turns, all is rendered, nothing thrashes.

`ScriptedDevice` looks that no lane runs beside one that it must not run beside, and that no step is larger than the
memory of its size holds.
"""

from __future__ import annotations

import time

import pytest

from darkroom.inference.engine import LaneEngine
from darkroom.inference.types import (
    BatchKey,
    EngineEvent,
    JobPrepared,
    JobRendered,
    Lane,
    RowId,
    Series,
    StepDone,
    StepFailed,
)
from tests.inference.scripted import (
    EventLog,
    Gate,
    ScriptedDevice,
    ScriptedRow,
    Starter,
    job,
    prepare,
    rows_of,
    stepped,
    wait_until,
)

TAKING_TURNS = [Series.DENOISE_AND_FINISH, Series.ALL]


def changes(calls: list[Lane]) -> list[Lane]:
    return [lane for index, lane in enumerate(calls) if index == 0 or calls[index - 1] is not lane]


class Worker(EventLog):
    """Admits what is prepared, as the worker does."""

    engine: LaneEngine[ScriptedRow]

    def __call__(self, event: EngineEvent) -> None:
        if isinstance(event, JobPrepared):
            self.engine.admit(rows_of(event.job_id, 2))
        if isinstance(event, StepFailed):
            self.engine.admit(event.rows)
        super().__call__(event)


@pytest.mark.parametrize("series", TAKING_TURNS)
def test_every_job_is_rendered_and_no_lane_runs_beside_another(series: Series) -> None:
    device = ScriptedDevice(series=series, rows_max=3)
    failing = [RuntimeError("once")]

    def step(rows: object) -> None:
        time.sleep(0.002)
        if len(device.batches) == 20 and failing:
            raise failing.pop()

    device.on_step = step
    # Long enough inside for another lane to come beside, if it could.
    device.on_prepare = device.on_finish = lambda _: time.sleep(0.002)
    engine, log = LaneEngine(device, rows_max=3, finish_queue_rows_max=2), Worker()
    log.engine = engine
    engine.start(log)
    try:
        for number in range(24):
            engine.prepare(job(f"job-{number}", steps=1 + number % 5, count=2, width=64 if number % 3 else 128))
        for number in range(24):
            if number % 8 != 5:
                log.wait(JobRendered, f"job-{number}")
            else:
                engine.drop(f"job-{number}")
        wait_until(lambda: len(log.of(StepFailed)) == 1)
    finally:
        engine.close()
    assert device.broken == []


def test_weights_are_not_carried_about_for_every_call(device: ScriptedDevice, start: Starter) -> None:
    """Eight jobs that wait together take one turn of each lane, not one a job."""
    device.series = Series.ALL
    gate = Gate()
    device.on_prepare = gate
    engine, log = start()
    names = [f"job-{number}" for number in range(8)]
    for name in names:
        engine.prepare(job(name, steps=6))
    gate.wait_reached()
    gate.open()
    for name in names:
        log.wait(JobPrepared, name)
    engine.admit([RowId(name, 0) for name in names])
    for name in names:
        log.wait(JobRendered, name)
    assert changes(device.calls) == [Lane.PREPARE, Lane.DENOISE, Lane.FINISH]


def test_a_job_that_comes_while_rows_denoise_waits_for_the_lanes_turn(device: ScriptedDevice, start: Starter) -> None:
    device.series = Series.ALL
    gate = Gate()
    engine, log = start()
    prepare(engine, log, job("first", steps=3))
    device.on_step = gate
    engine.admit(rows_of("first"))
    gate.wait_reached()
    engine.prepare(job("second", steps=1))
    gate.open()
    log.wait(JobPrepared, "second")
    engine.admit(rows_of("second"))
    log.wait(JobRendered, "second")
    assert device.calls[1:6] == [Lane.DENOISE] * 3 + [Lane.FINISH, Lane.PREPARE]


def test_a_long_turn_ends_for_those_who_wait(device: ScriptedDevice, start: Starter) -> None:
    device.series = Series.ALL
    gate = Gate()
    engine, log = start()
    prepare(engine, log, job("endless", steps=120))
    device.on_step = gate
    engine.admit(rows_of("endless"))
    gate.wait_reached()
    engine.prepare(job("waiting", steps=1))
    gate.open()
    log.wait(JobRendered, "endless")
    at = device.calls.index(Lane.PREPARE, 1)
    assert device.calls[1:at] == [Lane.DENOISE] * 50
    assert device.calls[at + 1 :].count(Lane.DENOISE) == 70


def test_a_finished_picture_waits_for_one_step_only(device: ScriptedDevice, start: Starter) -> None:
    device.series = Series.DENOISE_AND_FINISH
    engine, log = start()
    prepare(engine, log, job("short", steps=1), job("long", steps=6))
    engine.admit([RowId("short", 0), RowId("long", 0)])
    log.wait(JobRendered, "long")
    after_prepare = [lane for lane in device.calls if lane is not Lane.PREPARE]
    assert after_prepare[:3] == [Lane.DENOISE, Lane.FINISH, Lane.DENOISE]


def test_dropping_the_job_whose_turn_it_is_lets_the_others_go_on(device: ScriptedDevice, start: Starter) -> None:
    """A job is dropped between its being next and its lane's waking up: the turn must not be lost with it."""
    device.series = Series.ALL
    gate = Gate()
    engine, log = start()
    prepare(engine, log, job("first", steps=2))
    device.on_step = gate
    engine.admit(rows_of("first"))
    gate.wait_reached()
    for number in range(30):
        engine.prepare(job(f"gone-{number}"))
    for number in range(30):
        engine.drop(f"gone-{number}")
    gate.open()
    log.wait(JobRendered, "first")
    assert Lane.PREPARE not in device.calls[1:]


def test_the_devices_ceiling_bounds_a_step_by_its_size(device: ScriptedDevice, start: Starter) -> None:
    device.ceilings = {(8, 16): 2}
    engine, log = start(rows_max=4)
    prepare(engine, log, job("large", steps=1, count=5, width=128), job("small", steps=1, count=4))
    engine.admit(rows_of("large", 5))
    log.wait(JobRendered, "large")
    engine.admit(rows_of("small", 4))
    log.wait(JobRendered, "small")
    assert [len(step.rows) for step in log.of(StepDone)] == [2, 2, 1, 4]
    assert stepped(log)[-1] == ["small"] * 4
    assert engine.rows_ceiling(BatchKey(8, 16, "any")) == 2
    assert engine.rows_ceiling(BatchKey(8, 8, "any")) is None
