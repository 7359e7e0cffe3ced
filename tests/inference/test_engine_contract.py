"""What every `darkroom.inference.contract.Engine` must do, over every device there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import pytest

from darkroom.inference.contract import Device, Engine
from darkroom.inference.engine import LaneEngine
from darkroom.inference.resolve import batch_key
from darkroom.inference.types import FaultKind, JobFailed, JobPrepared, JobRendered, RenderJob, RowId, StepDone
from darkroom.schemas.events.pose import SkeletonPose, StoredPicture
from tests.inference.devices import EVERY, PAINTING, SAME, difference, make_device
from tests.inference.scripted import EventLog, job, rows_of


class Running(NamedTuple):
    engine: Engine
    log: EventLog
    device: Device[Any]


def run(name: str, request: pytest.FixtureRequest) -> Iterator[Running]:
    device = make_device(name, request)
    engine = LaneEngine(device, rows_max=4)
    log = EventLog()
    engine.start(log)
    yield Running(engine, log, device)
    engine.close()


@pytest.fixture(params=EVERY)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    yield from run(request.param, request)


@pytest.fixture(params=PAINTING)
def painting(request: pytest.FixtureRequest) -> Iterator[Running]:
    yield from run(request.param, request)


def prepare(running: Running, *jobs: RenderJob) -> None:
    for each in jobs:
        running.engine.prepare(each)
    for each in jobs:
        running.log.wait(JobPrepared, each.job_id)


def test_from_a_job_to_its_pictures(running: Running) -> None:
    asked = job("job", steps=3, count=2, seed=30)
    prepare(running, asked)
    prepared = running.log.of(JobPrepared)[0]
    assert prepared.batch_key == batch_key(asked.request, running.engine.info)
    assert prepared.prepare_ms >= 0
    running.engine.admit(rows_of("job", 2))
    told = running.log.wait(JobRendered, "job")
    assert [(image.seed, image.width, image.height) for image in told.images] == [(30, 64, 64), (31, 64, 64)]
    assert min(told.denoise_ms, told.decode_ms, told.device_seconds) >= 0
    assert told.device_seconds * 1000 <= told.denoise_ms
    assert (told.rows_min, told.rows_max) == (2, 2)
    steps = running.log.of(StepDone)
    assert [step.rows for step in steps] == [tuple(rows_of("job", 2))] * 3
    assert [step.retired for step in steps] == [(), (), tuple(rows_of("job", 2))]
    assert [step.joined for step in steps] == [2, 0, 0]


def test_each_row_takes_its_own_steps_in_shared_batches(running: Running) -> None:
    steps = {"a": 5, "b": 2, "c": 1, "d": 4, "e": 3, "f": 2}
    prepare(running, *(job(name, steps=count) for name, count in steps.items()))
    running.engine.admit([RowId(name, 0) for name in steps])
    for name in steps:
        running.log.wait(JobRendered, name)
    done = [row.job_id for step in running.log.of(StepDone) for row in step.rows]
    assert {name: done.count(name) for name in steps} == steps
    assert max(len(step.rows) for step in running.log.of(StepDone)) == 4


def test_keys_are_not_mixed(running: Running) -> None:
    prepare(running, job("small", steps=3), job("wide", steps=3, width=128), job("small-2", steps=3))
    running.engine.admit([RowId("small", 0), RowId("wide", 0), RowId("small-2", 0)])
    for name in ("small", "wide", "small-2"):
        running.log.wait(JobRendered, name)
    for step in running.log.of(StepDone):
        assert step.batch_key.latent_width == (16 if RowId("wide", 0) in step.rows else 8)


def test_a_dropped_job_is_not_rendered_and_can_be_prepared_again(running: Running) -> None:
    prepare(running, job("again", steps=2, seed=1), job("witness", steps=2))
    running.engine.drop("again")
    running.engine.admit([RowId("again", 0), RowId("witness", 0)])
    running.log.wait(JobRendered, "witness")
    assert running.log.of(JobRendered, "again") == []
    running.engine.prepare(job("again", steps=2, seed=2))
    running.log.wait(JobPrepared, "again", count=2)
    running.engine.admit(rows_of("again"))
    assert running.log.wait(JobRendered, "again").images[0].seed == 2


def test_close_ends_it(running: Running) -> None:
    prepare(running, job("job"))
    running.engine.close()
    told = len(running.log.events)
    running.engine.prepare(job("late"))
    running.engine.admit(rows_of("job"))
    running.engine.drop("job")
    running.engine.close()
    assert len(running.log.events) == told


def test_a_bad_request_fails_and_the_next_is_rendered(painting: Running) -> None:
    pose = SkeletonPose(image=StoredPicture(bucket="darkroom", key="pose.png"))
    bad = job("bad")
    painting.engine.prepare(RenderJob("bad", replace(bad.request, pose=pose), {"pose": b"no picture"}))
    fault = painting.log.wait(JobFailed, "bad").fault
    assert (fault.kind, fault.code) == (FaultKind.REQUEST, "pose_unreadable")
    prepare(painting, job("good", steps=1))
    painting.engine.admit(rows_of("good"))
    painting.log.wait(JobRendered, "good")


def test_pictures_are_those_of_the_device_alone(painting: Running) -> None:
    """Three jobs through three lanes in shared steps, then each by hand with no one beside it."""
    jobs = [job(name, steps=3 + at, count=1 + at % 2, seed=70 + 10 * at) for at, name in enumerate("abc")]
    prepare(painting, *jobs)
    painting.engine.admit([row for each in jobs for row in rows_of(each.job_id, each.request.count)])
    shared = {each.job_id: painting.log.wait(JobRendered, each.job_id).images for each in jobs}
    for each in jobs:
        rows = painting.device.prepare(each).rows
        for row in rows:
            while row.steps_done < row.steps_total:
                painting.device.step([row])
        for one, other in zip(shared[each.job_id], painting.device.finish(rows), strict=True):
            assert difference(one, other) <= SAME
