"""Proves that three lanes may use one model at the same time: preparing, denoising and decoding change no picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from darkroom.inference.engine import LaneEngine
from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import EngineEvent, JobPrepared, JobRendered, RenderJob, RowId, StepDone
from tests.inference.painting import PLAIN, POSED, SITTING, TOLERANCE, distance, paint, pixels
from tests.inference.scripted import EventLog

pytestmark = pytest.mark.render


def test_pictures_from_busy_lanes_are_those_rendered_alone(tiny: TinyModel, shared_device: SdxlDevice) -> None:
    draw = np.random.default_rng(3)
    requests = {
        f"job-{number}": replace(
            POSED if number % 2 else PLAIN,
            prompt=f"picture {number}",
            pose=[None, POSED.pose, None, SITTING][number % 4],
            seed=number,
            steps=int(draw.integers(1, 7)),
            guidance_scale=float(draw.choice([1.0, 4.0, 8.0])),
            sampler=str(draw.choice(["euler", "euler_ancestral"])),
        )
        for number in range(16)
    }
    log = EventLog()
    engine = LaneEngine(SdxlDevice(tiny.path, tiny.controlnet_path, device="cpu", cpu_threads=1), rows_max=4)

    jobs = [RenderJob(job_id, request) for job_id, request in requests.items()]

    def keep_lanes_busy(event: EngineEvent) -> None:
        """Admit what is prepared; the second half comes when the first picture is done, so all lanes have work."""
        if isinstance(event, JobPrepared):
            engine.admit([RowId(event.job_id, 0)])
        if isinstance(event, JobRendered) and not log.of(JobRendered):
            for job in jobs[8:]:
                engine.prepare(job)
        log(event)

    engine.start(keep_lanes_busy)
    try:
        for job in jobs[:8]:
            engine.prepare(job)
        rendered = {job_id: log.wait(JobRendered, job_id).images[0] for job_id in requests}
    finally:
        engine.close()
    assert max(len(event.rows) for event in log.of(StepDone)) > 1
    for job_id, request in requests.items():
        assert distance(pixels(rendered[job_id]), paint(shared_device, request)) <= TOLERANCE, request
