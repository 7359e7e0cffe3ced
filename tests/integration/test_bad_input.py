"""Proves that whatever stands on the request topic ends in one typed answer, and that the worker goes on.

Each case is one record on a real Kafka. Where a request id can be read the answer is a `failed` completion with
its code; where none can, it is a dead letter with the original bytes. An unknown field is only a warning.
"""

from __future__ import annotations

import base64
import io
import json
import uuid
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from tests.integration.fleet import Fleet
from tests.integration.in_process import Producer, running_worker

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


def request(**fields: Any) -> bytes:
    return json.dumps({"request_id": f"r-{uuid.uuid4().hex}", "prompt": "a figure", **fields}).encode()


def inline(content: bytes) -> dict[str, Any]:
    return {"image": {"image": {"inline": base64.b64encode(content).decode()}}}


def png(width: int, height: int, *, limb: str = "red") -> bytes:
    file = io.BytesIO()
    picture = Image.new("RGB", (width, height))
    picture.paste(limb, (width // 4, height // 4, width // 2, height // 2))
    picture.save(file, "PNG")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of a few kilobytes that says it has 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = (30_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(bytes(3_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


SKELETON = png(64, 64)
DEAD_LETTERS: dict[str, bytes | None] = {
    "no value": None,
    "not JSON": b"\xff\xfe rubbish",
    "no request id": b'{"prompt": "x"}',
    "a request id that is a path": request(request_id="../../etc/passwd"),
    "a request id that is a number": request(request_id=7),
    "a list": b"[1, 2, 3]",
    "very deep": b"[" * 100_000,
    "above the size limit": request(prompt="x", labels={"big": "y" * 1_100_000}),
}
COMPLETIONS: dict[str, tuple[bytes, str]] = {
    "no prompt": (request(prompt=None), "invalid_request"),
    "a prompt that is too long": (request(prompt="x" * 2001), "invalid_request"),
    "steps as text": (request(steps="30"), "invalid_request"),
    "too many steps": (request(steps=151), "invalid_request"),
    "an unknown enum value": (request(sampler="plms"), "invalid_request"),
    "a keypoint that is not finite": (
        request(pose={"people": [[[0.5, 0.5]] * 18]}).replace(b"0.5", b"NaN", 1),
        "invalid_request",
    ),
    "a keypoint far outside": (request(pose={"people": [[[99.0, 0.5]] * 18]}), "invalid_request"),
    "seventeen of eighteen points": (request(pose={"people": [[[0.5, 0.5]] * 17]}), "invalid_request"),
    "a pose that is no base64": (request(pose={"image": {"inline": "@@@"}}), "invalid_request"),
    "an undecodable pose": (
        request(pose={"image": {"inline": base64.b64encode(b"no picture at all").decode()}}),
        "pose_unreadable",
    ),
    "a cut pose": (
        request(pose={"image": {"inline": base64.b64encode(SKELETON[:60]).decode()}}),
        "pose_unreadable",
    ),
    "an oversized inline pose": (
        request(pose={"image": {"inline": base64.b64encode(bytes(600_000)).decode()}}),
        "invalid_request",
    ),
    "a decompression bomb": (
        request(pose={"image": {"inline": base64.b64encode(bomb()).decode()}}),
        "image_too_large",
    ),
    "a bucket that is not allowed": (
        request(pose={"image": {"bucket": "somebody-elses", "key": "secret.png"}}),
        "pose_forbidden",
    ),
    "a key that is not there": (
        request(pose={"image": {"bucket": "darkroom", "key": "nowhere.png"}}),
        "pose_not_found",
    ),
    "a person without a seen point": (request(pose={"people": [[None] * 18]}), "pose_not_found"),
    "a person outside of the picture": (request(pose={"people": [[[1.9, 1.9]] * 18]}), "pose_not_found"),
    "a black skeleton picture": (
        request(pose={"image": {"inline": base64.b64encode(png(64, 64, limb="black")).decode()}}),
        "pose_not_found",
    ),
    "a width that the model cannot paint": (request(width=100), "invalid_request"),
    "a picture that is too large": (request(width=4096, height=4096), "image_too_large"),
    "an adapter that nobody has": (request(adapter={"name": "oil", "weight": 1.0}), "unknown_adapter"),
}


async def test_every_record_has_its_answer_and_the_worker_goes_on(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="2")
    settings = fleet.settings
    await ensure_topics(settings)
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=8)
    async with running_worker(settings, engine) as worker, Producer(settings) as producer:
        letters = {case: await producer.put(value) for case, value in DEAD_LETTERS.items()}
        failures = {case: await producer.put(value) for case, (value, _) in COMPLETIONS.items()}
        unknown = await producer.put(request(colour="blue", output={"format": "png", "dpi": 300}))
        stored = await _put_skeleton(settings)
        good = await producer.put(request(pose={"image": {"bucket": settings.s3.bucket, "key": stored}}))
        places = {*letters.values(), *failures.values(), unknown, good}
        answers = await producer.answers(places)

        assert all(len(answers[place]) == 1 for place in places), "one answer each"
        for case, place in letters.items():
            [letter] = answers[place]
            assert not isinstance(letter, Completion), f"{case} is a dead letter"
            assert letter.value == DEAD_LETTERS[case], f"{case} keeps its bytes"
            assert dict(letter.headers)["darkroom_error_message"], case
        for case, place in failures.items():
            [completion] = answers[place]
            assert isinstance(completion, Completion), f"{case} is a completion"
            assert completion.error is not None, case
            assert completion.error.code.value == COMPLETIONS[case][1], f"{case}: {completion.error}"
            assert completion.error.message
        [warned] = answers[unknown]
        assert warned.status.value == "succeeded"
        assert any("colour" in one for one in warned.warnings)
        assert any("output.dpi" in one for one in warned.warnings)
        assert answers[good][0].status.value == "succeeded"
        assert all(one.unfinished == 0 for one in worker.driver.snapshot().partitions), "the offsets advanced"


async def _put_skeleton(settings: Any) -> str:
    objects = MinioObjects(settings.s3)
    key = f"poses/{uuid.uuid4().hex}.png"
    await objects.put(key, SKELETON, "image/png")
    objects.close()
    return key
