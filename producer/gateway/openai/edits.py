"""Reads the form of `POST /v1/images/edits` as a request that starts from a picture, with a mask where one is given.

OpenAI's mask is a picture whose transparent part is painted; ours is one whose white part is. A picture that is itself
transparent in places is its own mask, as their reference has it.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from typing import Any, Final

from darkroom.producer.gateway.jobs.uploads import Picture, Uploads
from darkroom.producer.gateway.problems import Problem, invalid
from darkroom.schemas.settings import LimitSettings

_IMAGES: Final = ("image", "image[]")
"""OpenAI's clients name one picture so, and each picture of a list."""
_MULTIPLE_PX: Final = 8
"""Sides of pictures are multiples of it."""


async def edit_of(
    document: dict[str, Any], files: Mapping[str, bytes], uploads: Uploads, limits: LimitSettings
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the body of a request for pictures, and its files by our names: `init` and, where there is one, `mask`.

    Without a size the output is as large as the picture, in multiples of 8 pixels, where the deployment paints that.
    Raises `Problem`, with OpenAI's name of the field in `param`.
    """
    names = [name for name in files if name in _IMAGES]
    if not names:
        raise _refused("image", "An edit needs the picture to edit: send it as the file `image` of a form.")
    if len(names) > 1 or files.keys() - {*_IMAGES, "mask"}:
        raise _refused("image", "An edit has one `image` and at most one `mask` here: there are no further pictures.")
    picture = await uploads.check(files[names[0]])
    mask = None
    if (given := files.get("mask")) is not None:
        mask = await asyncio.to_thread(_painted_part, (await uploads.check(given)).content)
        if mask is None:
            raise _refused("mask", "The mask has no transparent part. Make transparent what is to be painted.")
    else:
        mask = await asyncio.to_thread(_painted_part, picture.content)
    document = {**document, **_size_of(document, picture, limits)}
    if mask is not None:
        document.setdefault("strength", 1.0)  # what is transparent says nothing of the picture to come
    return document, {"init": picture.content} | ({} if mask is None else {"mask": mask})


def _size_of(document: dict[str, Any], picture: Picture, limits: LimitSettings) -> dict[str, int]:
    if document.get("size") not in (None, "auto") or "width" in document or "height" in document:
        return {}
    sides = [max(_MULTIPLE_PX, round(side / _MULTIPLE_PX) * _MULTIPLE_PX) for side in (picture.width, picture.height)]
    width, height = sides
    fits = limits.min_side <= min(sides) and width <= limits.max_width and height <= limits.max_height
    return {"width": width, "height": height} if fits and width * height <= limits.max_pixels else {}


def _painted_part(content: bytes) -> bytes | None:
    """Return a mask as ours are, as PNG: white where a picture is transparent. None where it is so nowhere."""
    from PIL import Image, ImageChops

    with Image.open(io.BytesIO(content)) as picture:
        if not picture.has_transparency_data:
            return None
        alpha = picture.convert("RGBA").getchannel("A")
    if alpha.getextrema() == (255, 255):
        return None
    made = io.BytesIO()
    ImageChops.invert(alpha).save(made, "PNG")
    return made.getvalue()


def _refused(param: str, detail: str) -> Problem:
    return invalid(detail, param=param)
