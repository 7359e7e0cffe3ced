"""Proves that a picture that went through Kafka, a shared batch and S3 is the one that diffusers' pipeline paints.

Eight requests of different steps, guidance, scale, window, seed and pose are sent at once to a worker with the built-in
model; the workers' batches mix them. Each stored PNG is held against `StableDiffusionXLControlNetPipeline` (without
a pose `StableDiffusionXLPipeline`) for the same request, within 1/255 in every channel.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from darkroom.consumer.worker.engines import make_engine
from darkroom.inference.resolve import resolve
from darkroom.inference.tiny import trained_model
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from tests.inference.painting import SITTING, TOLERANCE, WAVING, Oracle, Pixels, distance
from tests.integration.fleet import Fleet
from tests.integration.in_process import running_worker

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.render]

WAVE, SIT = ({"people": [list(pose.people[0])]} for pose in (WAVING, SITTING))
ASKED: list[dict[str, Any]] = [
    {"steps": 6, "pose": WAVE},
    {"steps": 9, "pose": SIT, "guidance_scale": 7.5, "control_scale": 0.5},
    {"steps": 7, "guidance_scale": 1.0},
    {"steps": 5, "pose": WAVE, "guidance_scale": 1.0, "control_start": 0.2, "control_end": 0.8},
    {"steps": 8, "negative_prompt": "blurred", "seed": 3},
    {"steps": 6, "negative_prompt": "", "pose": SIT, "control_scale": 1.7},
    {"steps": 10, "sampler": "euler", "pose": WAVE},
    {"steps": 6, "count": 2, "seed": 40},
]


async def test_the_worker_paints_what_the_pipeline_paints(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="3", DARKROOM_DEVICE="cpu")
    settings = fleet.settings
    await ensure_topics(settings)
    requests = [
        fleet.requests(1, **{"prompt": f"picture {number}", "request_id": f"{fleet.serial}-{number}", **fields})[0]
        for number, fields in enumerate(ASKED)
    ]
    engine = make_engine(settings)
    async with running_worker(settings, engine) as worker, Client(settings) as client:
        info = engine.info
        outcomes = await client.wait(await client.send(requests), timeout_s=120)
        assert worker.metrics.registry.get_sample_value("darkroom_model_loads_total") == 1
        hits = worker.engine.cache_counts()["pose"].hits
    assert hits > 0, "a pose that was drawn is not drawn again"
    assert max(one.batch.rows_max for one in outcomes.values() if one.batch) > 2, "the requests shared steps"
    tiny = trained_model()
    oracle = Oracle(tiny.path, tiny.controlnet_path)
    for request in requests:
        completion = outcomes[request.request_id]
        assert completion.status.value == "succeeded", completion.error
        resolved = resolve(request, info, settings.limits)
        for index, stored in enumerate(await _pictures(settings, completion)):
            alone = oracle.paint(_of_image(resolved, index))
            assert distance(stored, alone) <= TOLERANCE, f"{request.request_id} image {index}"


def _of_image(resolved: Any, index: int) -> Any:
    from dataclasses import replace

    return replace(resolved, seed=resolved.seed + index, count=1, image_text={})


async def _pictures(settings: Any, completion: Completion) -> list[Pixels]:
    objects = MinioObjects(settings.s3)
    pictures = []
    try:
        for ref in completion.images:
            content = await objects.get(ref.key, bucket=ref.bucket, bytes_max=1 << 24)
            assert content is not None
            picture = Image.open(io.BytesIO(content))
            told = json.loads(picture.text["darkroom:request"])  # type: ignore[attr-defined]
            assert told["request_id"] == completion.request_id
            pictures.append(np.asarray(picture.convert("RGB"), dtype=np.int16))
    finally:
        objects.close()
    return pictures
