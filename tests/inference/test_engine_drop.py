"""A dropped job: its rows leave, nothing more is said of it, and its id can be used again at once.

The job is dropped while a lane is held inside the device with it, which is when an old incarnation could haunt
the new one.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from darkroom.inference.types import JobFailed, JobPrepared, JobRendered, RenderJob, RowId, StepDone, StepFailed
from tests.inference.scripted import (
    Gate,
    ScriptedDevice,
    ScriptedRow,
    Starter,
    job,
    prepare,
    rows_of,
    stepped,
)


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
    engine, log = start(decode_rows_max=1)
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
