"""Proves that a photo that comes to a worker without a detector ends as a completion that says what to do."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from consumer.engines import make_engine
from inference.pose.photo import NO_DETECTOR
from producer.requests.client import Client
from producer.topics import ensure_topics
from tests.integration.fleet import Fleet
from tests.integration.in_process import running_worker

if TYPE_CHECKING:
    from consumer.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.render]


async def test_a_photo_is_refused_with_the_remedy_and_the_worker_goes_on(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="1", DARKROOM_DEVICE="cpu")
    settings = fleet.settings
    await ensure_topics(settings)
    content = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(content, "JPEG")
    pose = {"photo": {"inline": base64.b64encode(content.getvalue()).decode()}}
    [photo] = fleet.requests(1, prompt="a dancer", request_id=f"{fleet.serial}-photo", pose=pose)
    [plain] = fleet.requests(1, prompt="a dancer", request_id=f"{fleet.serial}-plain", steps=2)
    async with running_worker(settings, make_engine(settings)), Client(settings) as client:
        outcomes = await client.wait(await client.send([photo, plain]), timeout_s=60)
    refused = outcomes[photo.request_id]
    assert refused.status.value == "failed"
    assert refused.error is not None
    assert (refused.error.code.value, refused.error.message) == ("pose_unreadable", NO_DETECTOR)
    assert outcomes[plain.request_id].status.value == "succeeded"
