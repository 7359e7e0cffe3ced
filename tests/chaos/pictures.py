"""Holds stored pictures against their request rendered alone: a late writer or a mixed-up batch shows in the pixels.

Only the tiny model's pictures say this: the simulated device's follow from the request whatever was done to them.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np
from PIL import Image

from darkroom.inference.resolve import resolve
from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.tiny import ensure_tiny_model
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import decode_request
from tests.chaos.watch import Book
from tests.inference.painting import TOLERANCE, Pixels, distance, paint

COMPARED_MAX = 60
"""Completions whose pictures are compared: those of requests that were rendered twice first, then a spread."""
PICTURE_BYTES_MAX = 1 << 24


async def compare(
    settings: Settings, book: Book, asked: Iterable[bytes], rendered_twice: Collection[str]
) -> tuple[int, list[str]]:
    """How many pictures were compared, and which differ from their request's own, each in a sentence."""
    requests = {}
    for value in asked:
        decoded = decode_request(value, (), None, max_bytes=len(value))
        requests[decoded.request.request_id, decoded.digest] = decoded.request
    chosen = _chosen(book, rendered_twice)
    device = await asyncio.to_thread(_device)
    compared, wrong = 0, []
    async with MinioObjects(settings.s3) as objects:
        for completion in chosen:
            assert completion.request_digest is not None, "it has pictures, so its request was read"
            request = requests[completion.request_id, completion.request_digest]
            for index, ref in enumerate(completion.images):
                content = await objects.get(ref.key, bucket=ref.bucket, bytes_max=PICTURE_BYTES_MAX)
                if content is None:
                    continue  # the audit's to say
                alone = await asyncio.to_thread(_alone, device, settings, request, index)
                compared += 1
                if (apart := distance(_pixels(content), alone)) > TOLERANCE:
                    wrong.append(
                        f"{completion.request_id}, image {index}: differs by {apart} of 255 from its solo render"
                    )
    return compared, wrong


def _chosen(book: Book, rendered_twice: Collection[str]) -> list[Completion]:
    by_request = {one.request_id: one for found in book.completions.values() for one in found if one.images}
    first = [by_request.pop(request_id) for request_id in sorted(rendered_twice) if request_id in by_request]
    rest = [by_request[request_id] for request_id in sorted(by_request)]
    left = max(0, COMPARED_MAX - len(first))
    return [*first[:COMPARED_MAX], *rest[:: max(1, -(-len(rest) // left))]] if left else first[:COMPARED_MAX]


def _device() -> SdxlDevice:
    tiny = ensure_tiny_model()
    device = SdxlDevice(tiny.path, tiny.controlnet_path, name=tiny.name, device="cpu")
    device.load()
    return device


def _alone(device: SdxlDevice, settings: Settings, request: GenerationRequest, index: int) -> Pixels:
    resolved = resolve(request, device.info, settings.limits)
    return paint(device, replace(resolved, seed=resolved.seed + index, count=1))


def _pixels(content: bytes) -> Pixels:
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)
