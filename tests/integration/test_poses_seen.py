"""Proves with pixels that a skeleton which OpenPose's own code drew decides where the figure stands.

Six requests with skeleton pictures of controlnet-aux's, 512 pixels, go through Kafka, a worker with the built-in
trained model, and S3. In each stored picture the figure has to lie on the limbs that were drawn, and clearly less on
those of another request; the same requests without their poses have it elsewhere.
"""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from darkroom.consumer.worker.engines import make_engine
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.tools.tiny.quality.looking import Pixels
from darkroom.tools.tiny.quality.table import fresh_scenes, posture
from darkroom.tools.tiny.training.figures import Scene
from tests.integration.fleet import Fleet
from tests.integration.in_process import running_worker

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.render]

SCENES = fresh_scenes(6)
STEPS = 14
ON_THE_FIGURE_MIN = 0.85
"""Of the limbs' points; `make quality` measures more with 22 steps."""


async def test_the_figure_takes_the_pose_of_a_skeleton_that_openpose_drew(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="2", DARKROOM_DEVICE="cpu")
    await ensure_topics(fleet.settings)
    posed = [_request(fleet, f"posed-{n}", scene, {"image": _skeleton(scene)}) for n, scene in enumerate(SCENES)]
    free = [_request(fleet, f"free-{n}", scene, None) for n, scene in enumerate(SCENES)]
    engine = make_engine(fleet.settings)
    async with running_worker(fleet.settings, engine), Client(fleet.settings) as client:
        outcomes = await client.wait(await client.send([*posed, *free]), timeout_s=150)
    pictures = [await _picture(fleet.settings, outcomes[request.request_id]) for request in (*posed, *free)]
    there, elsewhere = posture(SCENES, pictures[: len(SCENES)])
    without, _ = posture(SCENES, pictures[len(SCENES) :])
    assert there >= ON_THE_FIGURE_MIN
    assert there - elsewhere > 0.3, "another request's skeleton does not fit the figure"
    assert there - without > 0.3, "the skeleton, and nothing else, put the figure there"


def _request(fleet: Fleet, name: str, scene: Scene, pose: dict[str, Any] | None) -> Any:
    fields = {"request_id": f"{fleet.serial}-{name}", "prompt": scene.text, "seed": 5, "steps": STEPS, "pose": pose}
    return fleet.requests(1, **fields)[0]


def _skeleton(scene: Scene) -> dict[str, str]:
    """As the detector of controlnet-aux draws it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import controlnet_aux.open_pose as library
    poses = [
        library.PoseResult(
            library.BodyResult([None if p is None else library.Keypoint(*p) for p in person], 1.0, 18), None, None, None
        )
        for person in scene.keypoints()
    ]
    drawn = library.draw_poses(poses, 512, 512, draw_hand=False, draw_face=False)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "PNG")
    return {"inline": base64.b64encode(file.getvalue()).decode()}


async def _picture(settings: Any, completion: Completion) -> Pixels:
    assert completion.status.value == "succeeded", completion.error
    async with MinioObjects(settings.s3) as objects:
        content = await objects.get(completion.images[0].key, bytes_max=1 << 24)
    assert content is not None
    pixels: Pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    return pixels
