"""What becomes of rows when a device fails, and of the engine when a lane dies or is closed."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Sequence

import pytest

from darkroom.inference.contract import PreparedRows
from darkroom.inference.engine import LaneEngine
from darkroom.inference.types import (
    DeviceLost,
    EngineEvent,
    EngineStopped,
    FaultKind,
    JobFailed,
    JobPrepared,
    JobRendered,
    ModelError,
    RenderedImage,
    RenderFault,
    RenderJob,
    RowId,
    StepDone,
    StepFailed,
)
from darkroom.schemas.errors import MESSAGE_CHARACTERS_MAX
from tests.inference.scripted import (
    EventLog,
    Gate,
    ScriptedDevice,
    ScriptedRow,
    Starter,
    fail_once,
    job,
    lane_alive,
    prepare,
    rows_of,
    stepped,
    wait_until,
)

# --- Failing --------------------------------------------------------------------------------------------


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

    def prepare(self, job: RenderJob) -> PreparedRows[ScriptedRow]:
        prepared = super().prepare(job)
        return prepared if job.request.count == 1 else PreparedRows(prepared.rows[:-1])

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
    assert [len(call) for call in device.finish_calls] == [2, 1, 1]


@pytest.mark.parametrize("raised", [True, False])
def test_a_picture_that_fails_beside_others_fails_its_own_job_alone(
    device: ScriptedDevice, start: Starter, raised: bool
) -> None:
    """Whether the device says whose fault it is or the whole call fails."""
    fault = RenderFault(FaultKind.REQUEST, "render_failed", "not finite")
    step_gate, make = Gate(), device.finish

    def fail(rows: Sequence[ScriptedRow]) -> None:
        if raised and any(row.row_id.job_id == "bad" for row in rows):
            raise fault

    def finish(rows: Sequence[ScriptedRow]) -> tuple[RenderedImage | RenderFault, ...]:
        images = make(rows)
        return tuple(
            fault if not raised and row.row_id.job_id == "bad" else image
            for row, image in zip(rows, images, strict=True)
        )

    device.on_step, device.on_finish = step_gate, fail
    device.finish = finish  # type: ignore[method-assign]
    engine, log = start()
    prepare(engine, log, *(job(name, steps=1) for name in ("before", "bad", "after")))
    engine.admit([RowId(name, 0) for name in ("before", "bad", "after")])
    step_gate.open()
    assert log.wait(JobFailed, "bad").fault.code == "render_failed"
    log.wait(JobRendered, "before")
    log.wait(JobRendered, "after")
    assert len(log.of(JobFailed)) == 1
    assert [row.job_id for row in device.finish_calls[0]] == (["before", "bad", "after"])


# --- Dying and closing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError("host"), DeviceLost("no GPU")])
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
        wait_until(lambda name=name: not lane_alive(name))  # type: ignore[misc]
    told = len(log.events)
    engine.prepare(job("b"))
    engine.admit(rows_of("a"))
    engine.drop("a")
    engine.close()
    assert len(log.events) == told, "EngineStopped is the last event"
    assert device.closes == 1


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
        assert not lane_alive(name)


def test_close_waits_for_the_step_and_says_nothing_more(device: ScriptedDevice, start: Starter) -> None:
    gate = Gate()
    device.on_step = gate
    engine, log = start()
    prepare(engine, log, job("a", steps=9))
    engine.admit(rows_of("a"))
    gate.wait_reached()
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(lambda: not lane_alive("finish"))
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
    wait_until(lambda: not lane_alive("denoise"))


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
    assert not lane_alive("denoise")
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
    assert not lane_alive("denoise")


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
