"""Checks a picture that a caller uploads, before anything is stored: it costs no more than its bytes and pixels may.

The bytes are counted first, then the pixels that its header names, and only then is it decoded, to see that it is
whole. Three formats are tried, so that the other forty that Pillow knows are no way in. What follows the picture's own
end is cut off: telephones put films there, and others archives or scripts, for which somebody might take the object.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from PIL import Image, UnidentifiedImageError

from darkroom.producer.gateway.problems import Problem
from darkroom.schemas.events.pictures import PICTURE_FORMATS, foreign_format, foreign_remedy, jpeg_reduction
from darkroom.schemas.names import CONTENT_TYPES, EXTENSIONS

_NAMES: Final = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}
"""Of each format that Pillow tells; MPO is a JPEG with further ones behind it, as some telephones make."""
_PNG_CHUNKS_AT: Final = 8
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Within a scan 0xff stands before a stuffed zero or a restart; anything else ends it (ITU T.81, B.1.1)."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A whole picture."""

    content: bytes
    """Its file, without what came after it."""
    extension: str
    content_type: str
    width: int
    height: int


class Uploads:
    """Checks uploads on threads, so many at a time. `bytes_max` and `pixels_max` bound each."""

    def __init__(self, *, bytes_max: int, pixels_max: int, at_a_time: int) -> None:
        self._bytes_max = bytes_max
        self._pixels_max = pixels_max
        self._places = asyncio.Semaphore(at_a_time)

    @property
    def bytes_max(self) -> int:
        """The most that is read of one."""
        return self._bytes_max

    async def check(self, content: bytes) -> Picture:
        """The picture in a file. Raises `Problem`: 413 for too much of it, 415 for another format, 422 for no whole."""
        if len(content) > self._bytes_max:
            raise too_many_bytes(self._bytes_max)
        async with self._places:
            return await asyncio.to_thread(read_picture, content, self._pixels_max)


def read_picture(content: bytes, pixels_max: int) -> Picture:
    """The same, here and now, of a file that is not too large."""
    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as picture:
            name = picture.format or ""
            size = picture.size
            _reduce(picture, pixels_max)
            picture.load()
    except (Problem, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels("too many pixels", pixels_max) from error
    except UnidentifiedImageError as error:
        foreign = foreign_format(content)
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "picture_format_unknown",
            "The uploaded file is " + (f"{foreign}, no" if foreign else "no") + " PNG, JPEG or WebP picture.",
            foreign_remedy(foreign) if foreign else "Save the picture as one of them.",
        ) from error
    # Pillow answers a malformed file with a dozen exception types, and all of them mean the same here.
    except Exception as error:
        raise _not_whole(f"it cannot be decoded ({type(error).__name__})") from error
    kind = _NAMES[name]
    end = _END_OF[kind](content)
    if end is None or end > len(content):
        raise _not_whole("it stops before the picture's end")
    return Picture(content[:end], EXTENSIONS[kind], CONTENT_TYPES[kind], *size)


def too_many_bytes(bytes_max: int) -> Problem:
    """413."""
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body_too_large",
        f"The uploaded file has more than {bytes_max} bytes (DARKROOM_LIMITS__POSE_PICTURE_BYTES_MAX).",
        "Make the picture smaller: nothing is looked at beyond some 1,000 pixels.",
        limit_bytes=bytes_max,
    )


def _png_end(content: bytes) -> int | None:
    """Behind the chunk IEND (PNG 3, section 5.3: length, type, data, checksum)."""
    at = _PNG_CHUNKS_AT
    while at + 8 <= len(content):
        kind = content[at + 4 : at + 8]
        at += 12 + int.from_bytes(content[at : at + 4], "big")
        if kind == b"IEND":
            return at
    return None


def _jpeg_end(content: bytes) -> int | None:
    """Behind the marker EOI (ITU T.81, B.1.1.4). Segments are passed over by their length: they may hold thumbnails."""
    at = 2
    while found := _JPEG_MARKER.search(content, at):
        marker, at = content[found.start() + 1], found.end()
        if marker == 0xD9:
            return at
        if marker != 0x01:
            at += max(2, int.from_bytes(content[at : at + 2], "big"))
    return None


def _webp_end(content: bytes) -> int | None:
    """A RIFF file says its length at its beginning."""
    return 8 + int.from_bytes(content[4:8], "little")


_END_OF: Final[dict[str, Callable[[bytes], int | None]]] = {"png": _png_end, "jpeg": _jpeg_end, "webp": _webp_end}


def _reduce(picture: Image.Image, pixels_max: int) -> None:
    """Choose the size at which it is decoded, as the worker does. Raises `Problem` where even that is too large."""
    width, height = picture.size
    if width * height <= pixels_max:
        return
    reduction = None
    if picture.format in ("JPEG", "MPO"):
        is_progressive = bool(picture.info.get("progressive"))
        reduction = jpeg_reduction(width, height, pixels_max=pixels_max, is_progressive=is_progressive)
    if reduction is None:
        raise _too_many_pixels(f"{width} x {height} pixels", pixels_max)
    picture.draft(None, (width // reduction, height // reduction))


def _too_many_pixels(size: str, pixels_max: int) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "image_too_large",
        f"The uploaded picture has {size}, at most {pixels_max} pixels are decoded "
        "(DARKROOM_LIMITS__POSE_PICTURE_PIXELS_MAX; larger ones only as a JPEG that is not progressive).",
        "Send a smaller picture.",
        limit_pixels=pixels_max,
    )


def _not_whole(why: str) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "pose_unreadable",
        f"The uploaded picture is not a whole file: {why}.",
        "Save it anew and upload all of it.",
    )
