"""The lanes of `LaneEngine`: joining, leaving, overlapping, timing, waiting for each other.

Over a device that does what the test says, with a lane held at a gate at the moment that matters, so that no
outcome depends on luck.
"""

from __future__ import annotations

import threading

import pytest

from darkroom.inference.engine import EngineFullError, LaneEngine
from darkroom.inference.engine.monitor import LaneMonitor
from darkroom.inference.types import (
    EngineEvent,
    FaultKind,
    JobPrepared,
    JobRendered,
    RenderFault,
    RowCaps,
    RowId,
    StepDone,
)
from tests.inference.scripted import (
    FakeClock,
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

# --- Joining and leaving --------------------------------------------------------------------------------


def test_rows_join_at_the_next_boundary_and_leave_when_they_are_done(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    prepare(engine, log, job("long", steps=4), job("short", steps=2))
    engine.admit(rows_of("long"))
    gate.wait_reached()
    engine.admit(rows_of("short"))
    gate.open()
    log.wait(JobRendered, "long")
    log.wait(JobRendered, "short")
    assert stepped(log) == [["long"], ["long", "short"], ["long", "short"], ["long"]]
    assert [step.joined for step in log.of(StepDone)] == [1, 1, 0, 0]
    assert [[row.job_id for row in step.retired] for step in log.of(StepDone)] == [[], [], ["short"], ["long"]]


def test_rows_above_the_cap_wait_for_room(device: ScriptedDevice, start: Starter) -> None:
    engine, log = start(rows_max=2)
    prepare(engine, log, job("many", steps=1, count=5))
    engine.admit(rows_of("many", 5))
    log.wait(JobRendered, "many")
    assert [[row.image for row in step.rows] for step in log.of(StepDone)] == [[0, 1], [2, 3], [4]]


def test_another_key_waits_until_the_device_is_empty(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    prepare(engine, log, job("small", steps=2), job("large", width=128, steps=1), job("small-2", steps=2))
    engine.admit(rows_of("small"))
    gate.wait_reached()
    engine.admit([RowId("large", 0), RowId("small-2", 0)])
    gate.open()
    log.wait(JobRendered, "large")
    assert stepped(log) == [["small"], ["small", "small-2"], ["small-2"], ["large"]]
    keys = [step.batch_key for step in log.of(StepDone)]
    assert (keys[0].latent_width, keys[3].latent_width) == (8, 16)


def test_the_key_that_was_admitted_first_goes_first_when_the_device_is_empty(
    device: ScriptedDevice, start: Starter
) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    jobs = [job("first", steps=1), job("wide", width=128, steps=1), job("tall", height=128, steps=1)]
    prepare(engine, log, *jobs)
    engine.admit(rows_of("first"))
    gate.wait_reached()
    engine.admit([RowId("tall", 0), RowId("wide", 0)])
    gate.open()
    log.wait(JobRendered, "wide")
    assert stepped(log) == [["first"], ["tall"], ["wide"]]


def test_a_job_is_rendered_once_all_of_its_rows_are_in_though_they_finish_apart(
    device: ScriptedDevice, start: Starter
) -> None:
    engine, log = start()
    prepare(engine, log, job("job", count=2, steps=1, seed=40))
    engine.admit([RowId("job", 1)])
    wait_until(lambda: device.finish_calls == [(RowId("job", 1),)])
    assert log.of(JobRendered) == []
    engine.admit([RowId("job", 0)])
    images = log.wait(JobRendered, "job").images
    assert [image.seed for image in images] == [40, 41], "in order of their index"


def test_rows_that_leave_together_are_finished_together_in_order_of_their_index(
    device: ScriptedDevice, start: Starter
) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    prepare(engine, log, job("b", count=2, steps=1), job("a", steps=1))
    engine.admit([RowId("b", 1), RowId("a", 0), RowId("b", 0)])
    gate.open()
    log.wait(JobRendered, "b")
    log.wait(JobRendered, "a")
    assert device.finish_calls == [(RowId("b", 0), RowId("b", 1), RowId("a", 0))]


def test_the_decoder_takes_what_waits_up_to_its_bound_and_of_one_size(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_finish = gate
    engine, log = start(decode_rows_max=3)
    wide = job("wide", count=2, steps=1, width=128)
    jobs = [job("first", steps=1), job("many", count=5, steps=1), job("a", steps=1), job("b", count=2, steps=1), wide]
    prepare(engine, log, *jobs)
    for one in jobs:
        engine.admit(rows_of(one.job_id, one.request.count))
        log.wait(StepDone, count=len(log.of(StepDone)) + 1)
    gate.open()
    for one in jobs:
        log.wait(JobRendered, one.job_id)
    shared = [[f"{row.job_id}{row.image}" for row in call] for call in device.finish_calls]
    assert shared == [
        ["first0"],
        ["many0", "many1", "many2"],
        ["many3", "many4"],
        ["a0", "b0", "b1"],
        ["wide0", "wide1"],
    ]


def test_progress_is_told_of_jobs_that_asked(device: ScriptedDevice, start: Starter) -> None:
    engine, log = start()
    prepare(engine, log, job("asked", steps=2, progress="steps"), job("silent", steps=2))
    engine.admit([RowId("asked", 0), RowId("silent", 0)])
    log.wait(JobRendered, "asked")
    assert [step.steps_done for step in log.of(StepDone)] == [{"asked": 1}, {"asked": 2}]


def test_jobs_are_prepared_in_order_and_with_their_warnings(device: ScriptedDevice, start: Starter) -> None:
    engine, log = start()
    prepare(engine, log, *(job(f"{n}") for n in range(5)))
    assert device.prepare_order == ["0", "1", "2", "3", "4"]
    assert log.wait(JobPrepared).warnings == ("scripted",)


def test_lanes_overlap_and_are_named(device: ScriptedDevice, start: Starter) -> None:
    """Each lane waits inside of the device for the other two: none would come were they one thread."""
    barrier = threading.Barrier(3, timeout=20)
    engine, log = start()
    prepare(engine, log, job("finishing", steps=1), job("stepping", steps=1))
    device.on_finish = lambda rows: _wait(barrier) if rows[0].row_id.job_id == "finishing" else None
    engine.admit(rows_of("finishing"))
    log.wait(StepDone)
    device.on_step = lambda rows: _wait(barrier)
    device.on_prepare = lambda job: _wait(barrier)
    engine.admit(rows_of("stepping"))
    engine.prepare(job("preparing"))
    log.wait(JobRendered, "finishing")
    log.wait(JobPrepared, "preparing")
    log.wait(StepDone, count=2)
    assert set(log.threads) == {"darkroom-prepare", "darkroom-denoise", "darkroom-finish"}


def _wait(barrier: threading.Barrier) -> None:
    barrier.wait()


# --- Timings --------------------------------------------------------------------------------------------


def test_timings_are_those_of_the_clock(device: ScriptedDevice, start: Starter) -> None:
    clock = FakeClock()
    device.on_prepare = lambda job: clock.pass_by(0.5)
    device.on_step = lambda rows: clock.pass_by(0.1 * len(rows))
    device.on_finish = lambda rows: clock.pass_by(0.02 * len(rows))
    engine, log = start(clock=clock)
    engine.prepare(job("a", steps=2, count=2))
    assert log.wait(JobPrepared, "a").prepare_ms == pytest.approx(500)
    engine.admit(rows_of("a", 2))
    told = log.wait(JobRendered, "a")
    assert told.denoise_ms == pytest.approx(400)
    assert told.decode_ms == pytest.approx(40)
    assert told.device_seconds == pytest.approx(0.4)
    assert (told.rows_min, told.rows_max) == (2, 2)
    assert [step.seconds for step in log.of(StepDone)] == pytest.approx([0.2, 0.2])


# --- What callers get wrong -----------------------------------------------------------------------------


def test_rows_of_unknown_jobs_are_passed_by(start: Starter) -> None:
    engine, log = start()
    prepare(engine, log, job("a", steps=1))
    engine.admit([RowId("gone", 0), RowId("a", 0), RowId("gone", 1)])
    log.wait(JobRendered, "a")


def test_admitting_wrongly_raises_and_admits_nothing(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    engine, log = start()
    prepare(engine, log, job("a", steps=1, count=2))
    device.on_prepare = gate
    engine.prepare(job("unprepared"))
    gate.wait_reached()
    with pytest.raises(ValueError, match="job 'a' has 2 prepared rows: there is no row 2"):
        engine.admit([RowId("a", 0), RowId("a", 2)])
    with pytest.raises(ValueError, match="no row -1"):
        engine.admit([RowId("a", -1)])
    with pytest.raises(ValueError, match="job 'unprepared' has 0 prepared rows"):
        engine.admit([RowId("a", 0), RowId("unprepared", 0)])
    gate.open()
    log.wait(JobPrepared, "unprepared")
    assert log.of(StepDone) == []
    device.on_step = Gate()
    engine.admit([RowId("a", 0)])
    with pytest.raises(ValueError, match="row 0 of job 'a' was already admitted"):
        engine.admit([RowId("a", 1), RowId("a", 0)])
    device.on_step.open()
    engine.admit([RowId("a", 1)])
    log.wait(JobRendered, "a")


def test_a_job_id_is_held_once(start: Starter) -> None:
    engine, log = start()
    prepare(engine, log, job("a"))
    with pytest.raises(ValueError, match="job 'a' is already in the engine"):
        engine.prepare(job("a"))


def test_jobs_are_bounded(start: Starter) -> None:
    engine, log = start(jobs_max=2)
    prepare(engine, log, job("a"), job("b"))
    with pytest.raises(EngineFullError, match="2 jobs"):
        engine.prepare(job("c"))
    engine.drop("a")
    prepare(engine, log, job("c"))


@pytest.mark.parametrize("bound", ["rows_max", "decode_rows_max", "finish_queue_rows_max", "jobs_max"])
def test_bounds_are_positive(device: ScriptedDevice, bound: str) -> None:
    with pytest.raises(ValueError, match=f"{bound} is 0"):
        LaneEngine(device, **{"rows_max": 8, bound: 0})  # type: ignore[arg-type]


# --- Falling behind -------------------------------------------------------------------------------------


def test_the_denoise_lane_waits_for_a_finish_lane_that_is_behind(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_finish = gate
    engine, log = start(rows_max=2, finish_queue_rows_max=3, decode_rows_max=1)
    prepare(engine, log, *(job(f"{n}", steps=1) for n in range(10)))
    engine.admit([RowId(f"{n}", 0) for n in range(10)])
    log.wait(StepDone, count=2)
    gate.wait_reached()
    # Four rows are finished and not decoded, more than three: the lane waits, though six rows want to join.
    assert len(device.batches) == 2
    # With one picture decoded the lane is behind by no more than three rows: one more batch.
    gate.let_through(1)
    log.wait(StepDone, count=3)
    gate.wait_reached()
    assert len(device.batches) == 3
    assert len(device.finish_calls) == 2
    gate.open()
    for n in range(10):
        log.wait(JobRendered, f"{n}")


def test_finishing_does_not_hold_up_denoising(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_finish = gate
    engine, log = start()
    prepare(engine, log, job("done", steps=1), job("going", steps=50))
    engine.admit([RowId("done", 0), RowId("going", 0)])
    gate.wait_reached()
    log.wait(StepDone, count=50)
    assert log.of(JobRendered) == []
    gate.open()
    log.wait(JobRendered, "going")


def test_the_time_between_two_steps_is_reported_and_none_after_a_failed_one() -> None:
    clock, device = FakeClock(), ScriptedDevice(rows_max=1)
    heard: list[EngineEvent] = []
    monitor: LaneMonitor[ScriptedRow] = LaneMonitor(
        caps=lambda _key: RowCaps(1, 1), finish_queue_rows_max=9, jobs_max=9, preview_interval_s=1.0, clock=clock
    )
    monitor.listen(heard.append)
    monitor.prepare(job("a", steps=9))
    held = monitor.next_job()
    assert held is not None
    monitor.prepared(held, device.prepare(held.job), 0.0)
    monitor.admit([RowId("a", 0)])
    for idle_s in (5.0, 0.25):
        assert monitor.let_join()
        clock.now += idle_s + 0.02
        monitor.stepped(0.02)
    monitor.step_failed(RenderFault(FaultKind.BATCH, "render_failed", "broken"))
    monitor.admit([RowId("a", 0)])
    assert monitor.let_join()
    monitor.stepped(0.02)
    steps = [event.idle_s for event in heard if isinstance(event, StepDone)]
    assert steps == [None, pytest.approx(0.25), None]
