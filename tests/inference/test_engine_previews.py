"""Proves that previews are made for who asked, at most so often, and never instead of anything else."""

from __future__ import annotations

from darkroom.inference.types import JobId, JobPreview, JobRendered, RenderFault, StepDone
from tests.inference.scripted import (
    FakeClock,
    Gate,
    ScriptedDevice,
    Starter,
    fail_once,
    job,
    prepare,
    rows_of,
    wait_until,
)


def previewed(device: ScriptedDevice) -> list[JobId]:
    return [row_id.job_id for row_id, _ in device.previews]


def test_previews_are_made_of_jobs_that_asked_of_their_first_image(device: ScriptedDevice, start: Starter) -> None:
    gate = device.on_step = Gate()
    engine, log = start(preview_interval_s=0.0)
    prepare(engine, log, job("asked", count=2, progress="previews"), job("steps", progress="steps"), job("silent"))
    engine.admit([*rows_of("asked", 2), *rows_of("steps"), *rows_of("silent")])
    for steps_done in (1, 2):
        gate.let_through()
        event = log.wait(JobPreview, count=steps_done)
        assert (event.job_id, event.preview.steps_done) == ("asked", steps_done)
    gate.open()
    log.wait(JobRendered, "asked")
    log.wait(JobRendered, "silent")
    assert {row_id for row_id, _ in device.previews} == {rows_of("asked")[0]}
    assert len(device.previews) == 2, "the last step is followed by the picture"


def test_previews_of_a_job_are_an_interval_apart(device: ScriptedDevice, start: Starter) -> None:
    clock = FakeClock()
    gate = Gate()

    def step(_rows: object) -> None:
        gate()
        clock.pass_by(0.1)

    device.on_step = step
    engine, log = start(preview_interval_s=0.35, clock=clock)
    prepare(engine, log, job("asked", steps=12, progress="previews"))
    engine.admit(rows_of("asked"))
    for done in range(1, 12):
        gate.let_through()
        log.wait(StepDone, count=done)
        if done in (1, 5, 9):
            log.wait(JobPreview, count=1 + done // 4)
        # A wish that was not due yet would have been served by now: the lane has nothing else to do.
        wait_until(lambda: gate.waiting)
    gate.open()
    log.wait(JobRendered, "asked")
    assert [steps_done for _, steps_done in device.previews] == [1, 5, 9]


def test_a_busy_finish_lane_makes_pictures_and_no_previews(device: ScriptedDevice, start: Starter) -> None:
    gate = device.on_finish = Gate()
    engine, log = start(preview_interval_s=0.0)
    prepare(engine, log, job("first", steps=1), job("second", steps=1), job("asked", steps=5, progress="previews"))
    engine.admit([*rows_of("first"), *rows_of("second")])
    gate.wait_reached()
    engine.admit(rows_of("asked"))
    log.wait(StepDone, count=6)
    gate.open()
    log.wait(JobRendered, "asked")
    assert previewed(device) == [], "five steps went by without waiting, and then the picture was there"


def test_a_preview_shows_the_newest_state_when_its_turn_comes(device: ScriptedDevice, start: Starter) -> None:
    finishing = device.on_finish = Gate()
    stepping = device.on_step = Gate()
    engine, log = start(preview_interval_s=0.0)
    prepare(engine, log, job("other", steps=1), job("asked", steps=5, progress="previews"))
    engine.admit([*rows_of("other"), *rows_of("asked")])
    stepping.let_through()
    finishing.wait_reached()
    for done in (2, 3):
        stepping.let_through()
        log.wait(StepDone, count=done)
    finishing.open()
    assert log.wait(JobPreview).preview.steps_done == 3
    stepping.open()
    log.wait(JobRendered, "asked")


def test_a_preview_that_fails_is_the_last_and_harms_nobody(device: ScriptedDevice, start: Starter) -> None:
    gate = device.on_step = Gate()
    device.on_preview = fail_once(RuntimeError("no memory for a preview"))
    engine, log = start(preview_interval_s=0.0)
    prepare(engine, log, job("asked", steps=4, progress="previews"))
    engine.admit(rows_of("asked"))
    gate.let_through()
    wait_until(lambda: device.previews)
    gate.open()
    log.wait(JobRendered, "asked")
    assert log.of(JobPreview) == []
    assert len(device.previews) == 1
    assert not [event for event in log.events if isinstance(event, RenderFault)]


def test_nothing_is_told_of_a_job_that_was_dropped_meanwhile(device: ScriptedDevice, start: Starter) -> None:
    previewing, gate = Gate(), Gate()
    device.on_step, device.on_preview = gate, previewing
    engine, log = start(preview_interval_s=0.0)
    prepare(engine, log, job("asked", steps=4, progress="previews"), job("next", steps=1))
    engine.admit(rows_of("asked"))
    gate.let_through()
    previewing.wait_reached()
    engine.drop("asked")
    previewing.open()
    engine.admit(rows_of("next"))
    gate.open()
    log.wait(JobRendered, "next")
    assert log.of(JobPreview) == []
