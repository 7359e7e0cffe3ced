"""Brings the pictures of completions from the store into a folder: `{tenant}/{request_id}/{index}-{digest}.{ext}`."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from darkroom.producer.store.objects import BucketForbidden, Objects, ObjectTooLarge
from darkroom.schemas.events.completion import Completion, ImageRef
from darkroom.schemas.names import CONTENT_TYPES, EXTENSIONS

_EXTENSION_OF = {content_type: EXTENSIONS[name] for name, content_type in CONTENT_TYPES.items()}


class PictureUnusable(Exception):  # noqa: N818 - what was found
    """A picture that a completion names is not there, or not what it says."""


async def save_images(objects: Objects, completion: Completion, folder: Path) -> list[Path]:
    """Write the pictures of a completion under `folder` and return their paths; those already there are kept.

    A file is complete or absent. Raises `PictureUnusable`, `OSError`, and what the store raises.
    """
    # Tenant and request id are safe as names of folders: the schema allows no slash and no dot in front.
    place = folder / completion.tenant / completion.request_id
    paths = []
    for index, image in enumerate(completion.images):
        extension = _EXTENSION_OF.get(image.content_type, "bin")
        path = place / f"{index}-{image.sha256[:16]}.{extension}"
        if not path.exists():
            content = await fetch(objects, image)
            await asyncio.to_thread(_write, path, content)
        paths.append(path)
    return paths


async def fetch(objects: Objects, image: ImageRef) -> bytes:
    """The bytes of a picture, proven to be those that the completion names. Raises `PictureUnusable`."""
    name = f"{image.bucket}/{image.key}"
    try:
        content = await objects.get(image.key, bucket=image.bucket, bytes_max=image.size_bytes)
    except ObjectTooLarge as error:
        raise PictureUnusable(f"The picture {name} is larger than its completion says.") from error
    except BucketForbidden as error:
        raise PictureUnusable(str(error)) from error
    if content is None:
        raise PictureUnusable(f"The picture {name} is not in the store; its retention may have passed.")
    if hashlib.sha256(content).hexdigest() != image.sha256:
        raise PictureUnusable(f"The picture {name} is not the one that its completion names.")
    return content


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
