"""The lanes of `LaneEngine` over a device that does what the test says.

Joining, leaving, failing, dropping, falling behind, dying and closing: each is brought about on purpose, with
the lane held at a gate at the moment that matters, so no outcome depends on luck.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import pytest

from inference.contract import (
    EngineEvent,
    EngineStopped,
    FaultKind,
    JobFailed,
    JobPrepared,
    JobRendered,
    ModelError,
    Prepared,
    RenderedImage,
    RenderFault,
    RenderJob,
    RowId,
    StepDone,
    StepFailed,
)
from inference.engine import MESSAGE_CHARACTERS_MAX, LaneEngine
from inference.lanes_monitor import EngineFullError
from tests.inference.scripted import (
    EventLog,
    FakeClock,
    Gate,
    ScriptedDevice,
    ScriptedRow,
    job,
    rows_of,
    wait_until,
)

Started = tuple[LaneEngine[ScriptedRow], EventLog]
Starter = Callable[..., Started]


@pytest.fixture
def device() -> Iterator[ScriptedDevice]:
    device = ScriptedDevice()
    yield device
    assert device.broken == []


@pytest.fixture
def start(device: ScriptedDevice) -> Iterator[Starter]:
    engines: list[LaneEngine[ScriptedRow]] = []

    def start(**options: object) -> Started:
        device.rows_max = options.setdefault("rows_max", 8)  # type: ignore[assignment]
        engine = LaneEngine(device, **options)  # type: ignore[arg-type]
        engines.append(engine)
        log = EventLog()
        engine.start(log)
        return engine, log

    yield start
    for engine in engines:
        engine.close()


def prepare(engine: LaneEngine[ScriptedRow], log: EventLog, *jobs: RenderJob) -> None:
    before = {each.job_id: len(log.of(JobPrepared, each.job_id)) for each in jobs}
    for each in jobs:
        engine.prepare(each)
    for each in jobs:
        log.wait(JobPrepared, each.job_id, before[each.job_id] + 1)


def stepped(log: EventLog) -> list[list[str]]:
    return [[row.job_id for row in step.rows] for step in log.of(StepDone)]


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
    assert [[row.index for row in step.rows] for step in log.of(StepDone)] == [[0, 1], [2, 3], [4]]


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
    assert device.finish_calls == [(RowId("b", 0), RowId("b", 1)), (RowId("a", 0),)]


def test_progress_is_told_of_jobs_that_asked(device: ScriptedDevice, start: Starter) -> None:
    engine, log = start()
    prepare(engine, log, job("asked", steps=2, progress=True), job("silent", steps=2))
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


# --- Failing --------------------------------------------------------------------------------------------


def fail_once(error: BaseException) -> Callable[[object], None]:
    left = [error]

    def call(_what: object) -> None:
        if left:
            raise left.pop()

    return call


def test_a_failed_step_leaves_its_rows_prepared_and_the_loop_goes_on(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    prepare(engine, log, job("a", steps=3), job("b", steps=3))
    engine.admit([RowId("a", 0), RowId("b", 0)])
    gate.let_through(1)
    log.wait(StepDone)
    gate.wait_reached()
    device.on_step = fail_once(RenderFault(FaultKind.BATCH_MEMORY, "out_of_memory", "no room"))
    gate.let_through(1)
    failed = log.wait(StepFailed)
    assert failed.rows == (RowId("a", 0), RowId("b", 0))
    assert (failed.fault.kind, failed.fault.code, failed.fault.message) == (
        FaultKind.BATCH_MEMORY,
        "out_of_memory",
        "no room",
    )
    assert log.of(JobRendered) == []
    for name in "ab":
        engine.admit(rows_of(name))
        log.wait(JobRendered, name)
    assert [row.steps_done for row in device.prepared] == [3, 3], "no step was lost and none was taken twice"


def test_an_unknown_error_in_a_step_is_the_batchs_with_a_bounded_message(
    device: ScriptedDevice, start: Starter
) -> None:
    device.on_step = fail_once(KeyError("x" * 10_000))
    engine, log = start()
    prepare(engine, log, job("a", steps=1))
    engine.admit(rows_of("a"))
    fault = log.wait(StepFailed).fault
    assert (fault.kind, fault.code) == (FaultKind.BATCH, "render_failed")
    assert fault.message.startswith("KeyError: 'xxx")
    assert len(fault.message) == MESSAGE_CHARACTERS_MAX


def test_a_fault_holds_nothing_of_the_device(device: ScriptedDevice, start: Starter) -> None:
    """Frames in a traceback would keep tensors alive just when the device has run out of memory."""

    class Tensor:
        pass

    kept: list[weakref.ref[Tensor]] = []

    def fail(rows: Sequence[ScriptedRow]) -> None:
        tensor = Tensor()
        kept.append(weakref.ref(tensor))
        try:
            [].pop()
        except IndexError as error:
            raise RenderFault(FaultKind.BATCH_MEMORY, "out_of_memory", "no room") from error

    device.on_step = fail
    engine, log = start()
    prepare(engine, log, job("a", steps=1))
    gc.disable()
    try:
        engine.admit(rows_of("a"))
        fault = log.wait(StepFailed).fault
        wait_until(lambda: kept[0]() is None)
    finally:
        gc.enable()
    assert (fault.__traceback__, fault.__cause__, fault.__context__) == (None, None, None)


def test_a_fault_in_prepare_fails_the_job_and_keeps_its_kind(device: ScriptedDevice, start: Starter) -> None:
    device.on_prepare = fail_once(RenderFault(FaultKind.REQUEST, "pose_unreadable", "no picture"))
    engine, log = start()
    engine.prepare(job("bad"))
    fault = log.wait(JobFailed, "bad").fault
    assert (fault.kind, fault.code, fault.message) == (FaultKind.REQUEST, "pose_unreadable", "no picture")
    prepare(engine, log, job("bad"), job("good"))


def test_an_unknown_error_in_prepare_is_the_batchs(device: ScriptedDevice, start: Starter) -> None:
    device.on_prepare = fail_once(ZeroDivisionError("by zero"))
    engine, log = start()
    engine.prepare(job("bad"))
    fault = log.wait(JobFailed, "bad").fault
    assert (fault.kind, fault.code, fault.message) == (
        FaultKind.BATCH,
        "render_failed",
        "ZeroDivisionError: by zero",
    )


class ShortDevice(ScriptedDevice):
    """Loses the last row of every job, and every picture of a job of one."""

    def prepare(self, job: RenderJob) -> Prepared[ScriptedRow]:
        prepared = super().prepare(job)
        return prepared if job.request.count == 1 else Prepared(prepared.rows[:-1])

    def finish(self, rows: Sequence[ScriptedRow]) -> tuple[RenderedImage, ...]:
        return super().finish(rows)[:-1]


def test_a_device_that_loses_rows_or_pictures_fails_the_job() -> None:
    log = EventLog()
    engine = LaneEngine(ShortDevice(), rows_max=8)
    engine.start(log)
    try:
        engine.prepare(job("two", count=2))
        assert "1 rows for a job of 2" in log.wait(JobFailed, "two").fault.message
        prepare(engine, log, job("one"))
        engine.admit(rows_of("one"))
        assert "0 pictures of 1 rows" in log.wait(JobFailed, "one").fault.message
    finally:
        engine.close()


def test_a_failed_picture_fails_its_job_and_takes_its_other_rows_off_the_device(
    device: ScriptedDevice, start: Starter
) -> None:
    step_gate, finish_gate = Gate(), Gate()

    def fail(rows: Sequence[ScriptedRow]) -> None:
        if rows[0].row_id.job_id == "bad":
            finish_gate()
            raise RenderFault(FaultKind.REQUEST, "render_failed", "not finite")

    device.on_finish = fail
    engine, log = start()
    prepare(engine, log, job("bad", count=3, steps=1), job("good", steps=3))
    engine.admit([RowId("bad", 0)])
    finish_gate.wait_reached()
    device.on_step = step_gate
    engine.admit([RowId("bad", 1), RowId("good", 0)])
    step_gate.wait_reached()
    engine.admit([RowId("bad", 2)])
    finish_gate.open()
    assert log.wait(JobFailed, "bad").fault.code == "render_failed"
    step_gate.open()
    log.wait(JobRendered, "good")
    assert stepped(log) == [["bad"], ["good"], ["good"], ["good"]]
    assert device.batches[1:] == [(RowId("bad", 1), RowId("good", 0)), (RowId("good", 0),), (RowId("good", 0),)]
    assert len(device.finish_calls) == 2
    assert len(log.of(JobFailed)) == 1


def test_rows_that_do_not_fit_the_decoder_together_are_decoded_one_by_one(
    device: ScriptedDevice, start: Starter
) -> None:
    def only_alone(rows: Sequence[ScriptedRow]) -> None:
        if len(rows) > 1:
            raise RenderFault(FaultKind.BATCH_MEMORY, "out_of_memory", "no room")

    device.on_finish = only_alone
    engine, log = start()
    prepare(engine, log, job("job", count=3, steps=1))
    engine.admit(rows_of("job", 3))
    assert len(log.wait(JobRendered, "job").images) == 3
    assert [len(call) for call in device.finish_calls] == [3, 1, 1, 1]


def test_a_row_that_does_not_fit_the_decoder_alone_fails_its_job(device: ScriptedDevice, start: Starter) -> None:
    def never(rows: Sequence[ScriptedRow]) -> None:
        raise RenderFault(FaultKind.BATCH_MEMORY, "out_of_memory", "no room")

    device.on_finish = never
    engine, log = start()
    prepare(engine, log, job("job", count=2, steps=1))
    engine.admit(rows_of("job", 2))
    fault = log.wait(JobFailed, "job").fault
    assert (fault.kind, fault.code) == (FaultKind.BATCH_MEMORY, "out_of_memory")
    assert [len(call) for call in device.finish_calls] == [2, 1]


# --- Dropping -------------------------------------------------------------------------------------------


def test_a_dropped_jobs_rows_leave_at_the_next_boundary(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    prepare(engine, log, job("dropped", steps=9), job("kept", steps=2))
    engine.admit([RowId("dropped", 0), RowId("kept", 0)])
    gate.wait_reached()
    engine.drop("dropped")
    gate.open()
    log.wait(JobRendered, "kept")
    assert stepped(log) == [["kept"], ["kept"]]
    assert device.batches == [(RowId("dropped", 0), RowId("kept", 0)), (RowId("kept", 0),)]


def test_a_step_of_dropped_rows_alone_is_not_told(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    prepare(engine, log, job("dropped", steps=1), job("next", steps=1))
    engine.admit(rows_of("dropped"))
    gate.wait_reached()
    engine.drop("dropped")
    device.on_step = lambda rows: None
    gate.let_through()
    engine.admit(rows_of("next"))
    log.wait(JobRendered, "next")
    assert stepped(log) == [["next"]]


def test_a_failed_step_of_dropped_rows_alone_is_not_told(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()

    def fail(rows: Sequence[ScriptedRow]) -> None:
        gate()
        raise RuntimeError("broken")

    device.on_step = fail
    engine, log = start()
    prepare(engine, log, job("dropped", steps=1), job("next", steps=1))
    engine.admit(rows_of("dropped"))
    gate.wait_reached()
    engine.drop("dropped")
    device.on_step = lambda rows: None
    gate.let_through()
    engine.admit(rows_of("next"))
    log.wait(JobRendered, "next")
    assert log.of(StepFailed) == []


def test_a_job_dropped_while_it_waits_is_never_prepared(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_prepare = gate
    engine, log = start()
    for name in ("busy", "dropped", "last"):
        engine.prepare(job(name))
    gate.wait_reached()
    engine.drop("dropped")
    gate.open()
    log.wait(JobPrepared, "last")
    assert device.prepare_order == ["busy", "last"]


def test_prepared_anew_while_its_old_self_is_in_the_prepare_lane(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_prepare = gate
    engine, log = start()
    engine.prepare(job("job", seed=1))
    gate.wait_reached()
    engine.drop("job")
    engine.prepare(job("job", seed=2))
    gate.open()
    log.wait(JobPrepared, "job")
    engine.admit(rows_of("job"))
    assert log.wait(JobRendered, "job").images[0].seed == 2
    assert len(log.of(JobPrepared)) == 1
    assert device.prepare_order == ["job", "job"]


def test_prepared_anew_while_its_old_self_is_in_a_failing_prepare(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()

    def fail(asked: RenderJob) -> None:
        gate()
        raise RuntimeError("the old one's")

    device.on_prepare = fail
    engine, log = start()
    engine.prepare(job("job"))
    gate.wait_reached()
    engine.drop("job")
    device.on_prepare = lambda asked: None
    engine.prepare(job("job"))
    gate.open()
    log.wait(JobPrepared, "job")
    assert log.of(JobFailed) == []


def test_prepared_anew_while_its_old_self_is_in_a_step(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    prepare(engine, log, job("job", steps=1, seed=1))
    engine.admit(rows_of("job"))
    gate.wait_reached()
    engine.drop("job")
    prepare(engine, log, job("job", steps=2, seed=2))
    engine.admit(rows_of("job"))
    gate.open()
    assert log.wait(JobRendered, "job").images[0].seed == 2
    assert [step.retired for step in log.of(StepDone)] == [(), (RowId("job", 0),)], "the old one's step is not told"


@pytest.mark.parametrize("old_one_fails", [False, True])
def test_prepared_anew_while_its_old_self_is_being_finished(
    device: ScriptedDevice, start: Starter, old_one_fails: bool
) -> None:
    gate = Gate()

    def finish(rows: Sequence[ScriptedRow]) -> None:
        if rows[0].seed == 1:
            gate()
            if old_one_fails:
                raise RuntimeError("the old one's")

    device.on_finish = finish
    engine, log = start()
    prepare(engine, log, job("job", steps=1, seed=1))
    engine.admit(rows_of("job"))
    gate.wait_reached()
    engine.drop("job")
    prepare(engine, log, job("job", steps=1, seed=2))
    engine.admit(rows_of("job"))
    gate.open()
    assert log.wait(JobRendered, "job").images[0].seed == 2
    assert len(log.of(JobRendered)) == 1
    assert log.of(JobFailed) == []


def test_rows_of_a_dropped_job_that_wait_for_the_decoder_are_skipped(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_finish = gate
    engine, log = start()
    prepare(engine, log, *(job(name, steps=1) for name in ("busy", "dropped", "last")))
    engine.admit([RowId(name, 0) for name in ("busy", "dropped", "last")])
    log.wait(StepDone)
    gate.wait_reached()
    engine.drop("dropped")
    gate.open()
    log.wait(JobRendered, "last")
    assert device.finish_calls == [(RowId("busy", 0),), (RowId("last", 0),)]


def test_dropping_what_is_not_there_is_nothing(start: Starter) -> None:
    engine, log = start()
    engine.drop("nobody")
    prepare(engine, log, job("a", steps=1))
    engine.admit(rows_of("a"))
    log.wait(JobRendered, "a")
    engine.drop("a")


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
    with pytest.raises(ValueError, match="row 0 of job 'a' was admitted already"):
        engine.admit([RowId("a", 1), RowId("a", 0)])
    device.on_step.open()
    engine.admit([RowId("a", 1)])
    log.wait(JobRendered, "a")


def test_a_job_id_is_held_once(start: Starter) -> None:
    engine, log = start()
    prepare(engine, log, job("a"))
    with pytest.raises(ValueError, match="job 'a' is in the engine already"):
        engine.prepare(job("a"))


def test_jobs_are_bounded(start: Starter) -> None:
    engine, log = start(jobs_max=2)
    prepare(engine, log, job("a"), job("b"))
    with pytest.raises(EngineFullError, match="2 jobs"):
        engine.prepare(job("c"))
    engine.drop("a")
    prepare(engine, log, job("c"))


@pytest.mark.parametrize("bound", ["rows_max", "finish_queue_rows_max", "jobs_max"])
def test_bounds_are_positive(device: ScriptedDevice, bound: str) -> None:
    with pytest.raises(ValueError, match=f"{bound} is 0"):
        LaneEngine(device, **{"rows_max": 8, bound: 0})


# --- Falling behind -------------------------------------------------------------------------------------


def test_the_denoise_lane_waits_for_a_finish_lane_that_is_behind(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_finish = gate
    engine, log = start(rows_max=2, finish_queue_rows_max=3)
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


# --- Dying and closing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError("host")])
@pytest.mark.parametrize("where", ["prepare", "step", "finish"])
def test_what_is_nobodys_row_stops_the_engine(
    device: ScriptedDevice, start: Starter, where: str, error: BaseException
) -> None:
    engine, log = start()
    setattr(device, f"on_{where}", fail_once(error))
    engine.prepare(job("a", steps=1))
    if where != "prepare":
        log.wait(JobPrepared, "a")
        engine.admit(rows_of("a"))
    lane = {"step": "denoise"}.get(where, where)
    reason = log.wait(EngineStopped).reason
    assert reason.startswith(f"the {lane} lane stopped: {type(error).__name__}")
    for name in ("prepare", "denoise", "finish"):
        wait_until(lambda name=name: not _alive(f"darkroom-{name}"))  # type: ignore[misc]
    told = len(log.events)
    engine.prepare(job("b"))
    engine.admit(rows_of("a"))
    engine.drop("a")
    engine.close()
    assert len(log.events) == told, "EngineStopped is the last event"
    assert device.closes == 1


def _alive(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


def test_a_bug_in_a_lane_stops_the_engine(device: ScriptedDevice, start: Starter) -> None:
    """A listener that raises stands for it: the lanes call nothing else that is not the device."""
    log = EventLog()

    def listener(event: EngineEvent) -> None:
        log(event)
        if log.of(JobPrepared) and not log.of(EngineStopped):
            raise LookupError("a bug")

    engine = LaneEngine(device, rows_max=8)
    engine.start(listener)
    try:
        engine.prepare(job("a"))
        assert log.wait(EngineStopped).reason == "the prepare lane stopped: LookupError: a bug"
    finally:
        engine.close()


def test_close_frees_the_device_once_and_ends_the_lanes(device: ScriptedDevice, start: Starter) -> None:
    engine, log = start()
    prepare(engine, log, job("a"))
    engine.close()
    engine.close()
    assert device.closes == 1
    for name in ("prepare", "denoise", "finish"):
        assert not _alive(f"darkroom-{name}")


def test_close_waits_for_the_step_and_says_nothing_more(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    prepare(engine, log, job("a", steps=9))
    engine.admit(rows_of("a"))
    gate.wait_reached()
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(lambda: not _alive("darkroom-finish"))
    assert device.closes == 0, "the step still uses the device"
    gate.open()
    closing.join(20)
    assert not closing.is_alive()
    assert device.closes == 1
    assert len(device.batches) == 1
    assert log.of(StepDone) == []


def test_close_does_not_wait_for_ever_nor_free_a_device_in_use(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start(close_wait_s=0.05)
    prepare(engine, log, job("a"))
    engine.admit(rows_of("a"))
    gate.wait_reached()
    engine.close()
    assert device.closes == 0
    gate.open()
    wait_until(lambda: not _alive("darkroom-denoise"))


def test_an_engine_starts_once(device: ScriptedDevice, start: Starter) -> None:
    engine, log = start()
    with pytest.raises(RuntimeError, match="starts once"):
        engine.start(log)
    engine.close()
    closed = LaneEngine(ScriptedDevice(), rows_max=1)
    closed.close()
    with pytest.raises(RuntimeError, match="starts once"):
        closed.start(log)


def test_a_model_that_cannot_be_loaded_raises_from_start(device: ScriptedDevice) -> None:
    def refuse() -> None:
        raise ModelError("torn")

    device.on_load = refuse
    engine = LaneEngine(device, rows_max=8)
    with pytest.raises(ModelError, match="torn"):
        engine.start(EventLog())
    assert not _alive("darkroom-denoise")
    engine.close()


def test_closed_while_the_model_loads(device: ScriptedDevice) -> None:
    gate = Gate()
    device.on_load = gate
    engine = LaneEngine(device, rows_max=8)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            engine.start(EventLog())
        except RuntimeError as error:
            raised.append(error)

    starting = threading.Thread(target=run)
    starting.start()
    gate.wait_reached()
    engine.close()
    gate.open()
    starting.join(20)
    assert "closed while its model was loading" in str(raised[0])
    assert device.closes == 2, "what was loaded since is freed too"
    assert not _alive("darkroom-denoise")


def test_the_engine_tells_of_its_device(start: Starter, device: ScriptedDevice) -> None:
    engine, _ = start()
    assert engine.info.name == "scripted"
    assert engine.cache_counts()["prompt"].hits == 3
    assert engine.memory_bytes() == {"allocated": 5}


def test_a_listener_may_call_back(device: ScriptedDevice) -> None:
    """The lock is reentrant: a listener that admits and drops from within an event does not hang."""
    log = EventLog()
    engine = LaneEngine(device, rows_max=8)

    def listener(event: EngineEvent) -> None:
        log(event)
        if isinstance(event, JobPrepared):
            engine.admit(rows_of(event.job_id))
        if isinstance(event, StepDone) and event.rows[0].job_id == "first":
            engine.drop("first")
            engine.prepare(job("second", steps=1))

    engine.start(listener)
    try:
        engine.prepare(job("first", steps=5))
        log.wait(JobRendered, "second")
        assert stepped(log) == [["first"], ["second"]]
    finally:
        engine.close()
