"""Proves that a real worker starts from stored and inline pictures, in fewer steps, and refuses what it cannot read."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from darkroom.consumer.worker.engines import make_engine
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from tests.inference.painting import TOLERANCE, mask_to_paint_in, picture_to_start_from
from tests.integration.fleet import Fleet
from tests.integration.in_process import running_worker
from tests.integration.test_photos import stored_picture

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.render]

STEPS = 8


async def test_pictures_are_painted_from_pictures(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="1", DARKROOM_DEVICE="cpu")
    settings, bucket = fleet.settings, fleet.settings.s3.bucket
    await ensure_topics(settings)
    content = picture_to_start_from(128, 128).content
    key = f"default/{fleet.serial}/start.png"
    async with MinioObjects(settings.s3) as objects:
        await objects.put(key, content, "image/png")
        await objects.put(f"{key}.torn", content[:-300], "image/png")
    inline = {"inline": base64.b64encode(content).decode()}
    asked: dict[str, dict[str, Any] | None] = {
        "stored": {"image": {"bucket": bucket, "key": key}, "strength": 0.5},
        "inline": {"image": inline, "strength": 0.5},
        "bold": {"image": inline, "strength": 0.95},
        "masked": {"image": inline, "strength": 0.95},
        "none": None,
        "torn": {"image": {"bucket": bucket, "key": f"{key}.torn"}},
        "absent": {"image": {"bucket": bucket, "key": f"{key}.absent"}},
        "foreign": {"image": {"bucket": "somebody-elses", "key": key}},
    }
    how = {"prompt": "a dancer", "steps": STEPS, "seed": 7, "sampler": "euler", "pose": None}
    masks = {"masked": {"mask": {"image": mask_to_paint_in((32, 32, 96, 96), 128, 128).model_dump()}}}
    requests = {
        name: fleet.requests(1, **how, request_id=f"{fleet.serial}-{name}", init=init, **masks.get(name, {}))[0]
        for name, init in asked.items()
    }
    async with running_worker(settings, make_engine(settings)), Client(settings) as client:
        outcomes = await client.wait(await client.send([*requests.values()]), timeout_s=60)
        done = {name: outcomes[request.request_id] for name, request in requests.items()}
        painted = {name: await stored_picture(settings, one) for name, one in done.items() if one.images}
    assert painted.keys() == {"stored", "inline", "bold", "masked", "none"}
    steps = {"stored": 4, "inline": 4, "bold": 7, "masked": 7, "none": STEPS}
    assert {name: done[name].full_steps for name in painted} == steps
    assert np.abs(painted["stored"] - painted["inline"]).max() <= TOLERANCE, "they may have shared steps with others"
    assert done["stored"].render_digest == done["inline"].render_digest
    assert len({done[name].render_digest for name in painted}) == 4
    with Image.open(io.BytesIO(content)) as picture:
        start = np.asarray(picture.convert("RGB"), np.int16)
    apart = {name: float(np.abs(one - start).mean()) for name, one in painted.items()}
    assert apart["inline"] < apart["bold"] < apart["none"], "the less is painted anew, the nearer to the picture"
    outside = np.ones((128, 128), bool)
    outside[32:96, 32:96] = False
    assert np.array_equal(painted["masked"][outside], start[outside])
    assert not np.array_equal(painted["masked"][~outside], start[~outside])
    errors = {name: error.code.value for name, one in done.items() if (error := one.error) is not None}
    assert errors == {"torn": "pose_unreadable", "absent": "pose_not_found", "foreign": "pose_forbidden"}
    torn = done["torn"].error
    assert torn is not None
    assert torn.message.startswith("The picture to start from is not a whole PNG")
