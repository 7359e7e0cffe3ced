"""Proves what a requester who asked for progress sees on Kafka: the stages in order, the steps, and previews that come
to resemble the picture; and that who did not ask is told nothing.
"""

from __future__ import annotations

import asyncio
import io
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from darkroom.consumer.worker.engines import make_engine
from darkroom.inference.types import PREVIEW_BYTES_MAX
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.progress import Progress
from darkroom.schemas.events.request import GenerationRequest
from tests.integration.in_process import running_worker
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

STEPS = 20


async def test_progress_is_told_to_who_asked(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("darkroom.consumer.worker.engines.PREVIEW_INTERVAL_S", 0.15)
    settings = deployment_on(stack.environment)(simulated__step_ms=50)
    await ensure_topics(settings)
    asked = [
        GenerationRequest(request_id=kind, prompt=kind, steps=STEPS, progress=kind)
        for kind in ("none", "steps", "previews")
    ]
    told: dict[str, list[Progress]] = {one.request_id: [] for one in asked}
    async with running_worker(settings, make_engine(settings)), Client(settings) as client:
        following = asyncio.create_task(_follow(client, told))
        outcomes = await client.wait(await client.send(asked), timeout_s=60)
        async with asyncio.timeout(20):
            while any(not told[name] or told[name][-1].stage != "finish" for name in ("steps", "previews")):
                await asyncio.sleep(0.05)
        following.cancel()
    assert told["none"] == []
    for name in ("steps", "previews"):
        stages = list(dict.fromkeys(one.stage for one in told[name]))
        assert stages == ["prepare", "denoise", "finish"]
        assert [one.steps_done for one in told[name] if one.stage == "finish"] == [STEPS]
    assert not [one for one in told["steps"] if one.preview]
    # A second of steps, and 150 ms between previews; the first is due at once.
    previews = [one for one in told["previews"] if one.preview]
    assert 2 <= len(previews) <= 8
    image = outcomes["previews"].images[0]
    objects = MinioObjects(settings.s3)
    try:
        stored = await objects.get(image.key, bucket=image.bucket, bytes_max=1 << 20)
    finally:
        objects.close()
    assert stored is not None
    distances = [float(np.abs(_colours(one) - _pixels(stored)).mean()) for one in previews]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 2


async def _follow(client: Client, told: dict[str, list[Progress]]) -> None:
    async for one in client.progress():
        told[one.request_id].append(one)


def _colours(progress: Progress) -> npt.NDArray[np.float64]:
    assert progress.preview is not None
    content = progress.preview.content
    assert len(content) <= PREVIEW_BYTES_MAX
    return _pixels(content)


def _pixels(content: bytes) -> npt.NDArray[np.float64]:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.float64)
