"""Checks an uploaded picture before it is stored, at a cost that its bytes and pixels bound.

The bytes are counted first, then the pixels in its header; only then is the picture decoded, which shows that it is
complete. Only three formats are tried, so that the other forty that Pillow knows are no attack surface. Bytes after the
picture's own end are cut off: phones put videos there, and others archives or scripts that the object could be taken
for.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from darkroom.producer.gateway.problems import Problem, body_too_large
from darkroom.schemas.events.pictures import PICTURE_FORMATS, foreign_format, foreign_remedy, jpeg_reduction
from darkroom.schemas.names import CONTENT_TYPES, EXTENSIONS

if TYPE_CHECKING:
    from PIL import Image

_NAMES: Final = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}
"""Pillow's formats. MPO is a JPEG followed by others, as some phones make them."""
_PNG_CHUNKS_AT: Final = 8
_JPEG_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Within a scan, 0xff precedes a stuffed zero or a restart; any other marker ends the scan (ITU T.81, B.1.1)."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A complete picture."""

    content: bytes
    """The file, without the bytes after the picture's end."""
    extension: str
    content_type: str
    width: int
    height: int


class Uploads:
    """Checks uploads on threads, at most `at_a_time` at once. `bytes_max` and `pixels_max` bound each."""

    def __init__(self, *, bytes_max: int, pixels_max: int, at_a_time: int) -> None:
        self._bytes_max = bytes_max
        self._pixels_max = pixels_max
        self._places = asyncio.Semaphore(at_a_time)

    @property
    def bytes_max(self) -> int:
        """Return the largest size that is read of a picture."""
        return self._bytes_max

    async def check(self, content: bytes) -> Picture:
        """Return the picture in a file. Raises `Problem`: 413 too large, 415 another format, 422 incomplete."""
        if len(content) > self._bytes_max:
            raise file_too_large(self._bytes_max)
        async with self._places:
            return await asyncio.to_thread(read_picture, content, self._pixels_max)


def read_picture(content: bytes, pixels_max: int) -> Picture:
    """Return the picture in a file whose size is not checked, on this thread. Raises `Problem` 413, 415 or 422."""
    from PIL import Image, UnidentifiedImageError

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
        if foreign is None and content.lstrip()[:1] in (b"{", b"["):
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "picture_format_unknown",
                "The uploaded file is JSON, not a PNG, JPEG or WebP picture.",
                "For keypoints, post the file to /v1/poses, and send the `pose` of its answer as the request's.",
            ) from error
        raise Problem(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            "picture_format_unknown",
            "The uploaded file is " + (f"{foreign}, not" if foreign else "not") + " a PNG, JPEG or WebP picture.",
            foreign_remedy(foreign) if foreign else "Save the picture as one of these.",
        ) from error
    # Pillow raises a dozen exception types for malformed files, and all of them mean the same here.
    except Exception as error:
        raise _not_whole(f"it cannot be decoded ({type(error).__name__})") from error
    kind = _NAMES[name]
    end = _END_OF[kind](content)
    if end is None or end > len(content):
        raise _not_whole("it ends before the picture does")
    return Picture(content[:end], EXTENSIONS[kind], CONTENT_TYPES[kind], *size)


def file_too_large(bytes_max: int) -> Problem:
    """Return the 413 of an uploaded file."""
    return body_too_large(
        "The uploaded file",
        bytes_max,
        "Make the picture smaller: no more than some 1,000 pixels of a side are used. The limit is "
        "DARKROOM_LIMITS__POSE_PICTURE_BYTES_MAX.",
    )


def _png_end(content: bytes) -> int | None:
    """Return the offset behind the chunk IEND (PNG 3, section 5.3: length, type, data, checksum)."""
    at = _PNG_CHUNKS_AT
    while at + 8 <= len(content):
        kind = content[at + 4 : at + 8]
        at += 12 + int.from_bytes(content[at : at + 4], "big")
        if kind == b"IEND":
            return at
    return None


def _jpeg_end(content: bytes) -> int | None:
    """Return the offset behind the marker EOI (ITU T.81, B.1.1.4). Segments, which may hold thumbnails, are skipped."""
    at = 2
    while found := _JPEG_MARKER.search(content, at):
        marker, at = content[found.start() + 1], found.end()
        if marker == 0xD9:
            return at
        if marker != 0x01:
            at += max(2, int.from_bytes(content[at : at + 2], "big"))
    return None


def _webp_end(content: bytes) -> int | None:
    """Return the length that a RIFF file gives at its start."""
    return 8 + int.from_bytes(content[4:8], "little")


_END_OF: Final[dict[str, Callable[[bytes], int | None]]] = {"png": _png_end, "jpeg": _jpeg_end, "webp": _webp_end}


def _reduce(picture: Image.Image, pixels_max: int) -> None:
    """Choose the size to decode the picture at, as a worker does. Raises `Problem` 413 if it is still too large."""
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
        f"The uploaded picture has {size}; at most {pixels_max} are decoded "
        "(DARKROOM_LIMITS__POSE_PICTURE_PIXELS_MAX), and more only of a JPEG that is not progressive.",
        "Send a smaller picture.",
        limit_pixels=pixels_max,
    )


def _not_whole(why: str) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "pose_unreadable",
        f"The uploaded picture is not a complete file: {why}.",
        "Save it again, and upload all of it.",
    )
