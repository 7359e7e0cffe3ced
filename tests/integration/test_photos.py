"""Proves that a worker that was told of no detector finds people in photos, and that completions tell of them."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from darkroom.consumer.worker.engines import make_engine
from darkroom.inference.pose.photo import NOBODY_FOUND
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.settings import Settings
from tests.inference.test_pose_blazepose import PHOTO, SEEN
from tests.integration.fleet import Fleet
from tests.integration.in_process import running_worker

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.render]


def posed(content: bytes) -> dict[str, dict[str, str]]:
    return {"photo": {"inline": base64.b64encode(content).decode()}}


async def stored_picture(settings: Settings, completion: Completion) -> np.ndarray:
    async with MinioObjects(settings.s3) as objects:
        content = await objects.get(completion.images[0].key, bytes_max=1 << 24)
    assert content is not None
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"), np.int16)


async def test_a_photo_is_painted_and_its_people_are_told(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="1", DARKROOM_DEVICE="cpu")
    settings = fleet.settings
    await ensure_topics(settings)
    empty = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(empty, "JPEG")
    how = {"prompt": "a dancer", "steps": 2, "seed": 7}
    [photo] = fleet.requests(1, **how, request_id=f"{fleet.serial}-photo", pose=posed(PHOTO.read_bytes()))
    [nobody] = fleet.requests(1, **how, request_id=f"{fleet.serial}-nobody", pose=posed(empty.getvalue()))
    async with running_worker(settings, make_engine(settings)), Client(settings) as client:
        outcomes = await client.wait(await client.send([photo, nobody]), timeout_s=60)
        painted = outcomes[photo.request_id]
        [person] = painted.found
        # What was found is what a caller can send as keypoints: it gives the same picture.
        points = [None if point is None else [point[0], point[1]] for point in person.points]
        [again] = fleet.requests(1, **how, request_id=f"{fleet.serial}-again", pose={"people": [points]})
        repeated = (await client.wait(await client.send([again]), timeout_s=60))[again.request_id]
        first, second = [await stored_picture(settings, one) for one in (painted, repeated)]
    assert painted.status.value == "succeeded"
    assert np.abs(first - second).mean() < 2.0, "of 255: the points were rounded once more"
    for index, (x, y) in SEEN.items():
        point = person.points[index]
        assert point is not None
        assert (point[0], point[1]) == pytest.approx((x, y), abs=0.03)
        assert point[2] > 0.9
    assert repeated.found == ()
    refused = outcomes[nobody.request_id]
    assert refused.error is not None
    assert (refused.error.code.value, refused.error.message) == ("pose_not_found", NOBODY_FOUND)
    assert refused.found == ()
