"""Decodes a stranger's picture within limits on its cost.

The bytes are counted before they are parsed, and the pixels before they are decoded. Only three formats are accepted,
so that the decoders of the other forty that Pillow knows are never exposed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from darkroom.inference.types import FaultKind, RenderFault
from darkroom.schemas.events.pictures import PICTURE_FORMATS, foreign_format, foreign_remedy, jpeg_reduction
from darkroom.schemas.events.pose import InlinePicture, PictureRef

_LEVELS_16: Final = 65_536
_SIXTEENTH_OF_EIGHT: Final = 257
"""65535 / 255: the divisor from a 16-bit level to an 8-bit one (PNG 3, section 12.4)."""


POSE_PICTURE: Final = "The pose's picture"
INIT_PICTURE: Final = "The picture to start from"
MASK_PICTURE: Final = "The mask"


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """Limits on a picture that comes from outside."""

    bytes_max: int = 16 * 1024 * 1024
    """Encoded size. A skeleton has some 20 KiB, a phone's JPEG 2 to 15 MiB."""
    pixels_max: int = 16 * 1024 * 1024
    """Decoded size: 64 MiB of memory for a square of 4,096 pixels, four times the side of SDXL's native size."""


def decode_picture(content: bytes, limits: PictureLimits, what: str = POSE_PICTURE) -> Image.Image:
    """Decode a PNG, JPEG or WebP picture to RGB, upright; of an animation, its first frame.

    Transparent pixels become black, the background of every skeleton, and 16-bit levels are rounded to 8 bits. A
    sequential JPEG of up to 16 times `pixels_max` is decoded at a half or a quarter of its sides. `what` names the
    picture in messages. Raises `RenderFault` of the request: `image_too_large` above a limit, `pose_unreadable` for
    anything that is not a whole picture.
    """
    if len(content) > limits.bytes_max:
        raise RenderFault(
            FaultKind.REQUEST,
            "image_too_large",
            f"{what} has {len(content)} bytes, at most {limits.bytes_max} are read "
            "(DARKROOM_LIMITS__POSE_PICTURE_BYTES_MAX): send a smaller one.",
        )
    try:
        with Image.open(io.BytesIO(content), formats=PICTURE_FORMATS) as picture:
            _reduce(picture, limits, what)
            picture.load()
            # In place and without a conversion that copies, which would hold a phone's photo in memory three times.
            ImageOps.exif_transpose(picture, in_place=True)
            return _rgb(picture)
    except (RenderFault, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(limits, what) from error
    except UnidentifiedImageError as error:
        raise _unreadable(content, error, what) from error
    # Pillow raises a dozen exception types for malformed files, and all of them mean the same here.
    except Exception as error:
        raise _unreadable(content, error, what) from error


def named_content(picture: PictureRef, stored: bytes | None, what: str) -> bytes:
    """Return the file of a picture, called `what`. Raises `RenderFault` if it is only named and was not fetched."""
    if isinstance(picture, InlinePicture):
        return picture.content
    if stored is None:
        raise RenderFault(
            FaultKind.REQUEST,
            "pose_unreadable",
            f"{what}, {picture.bucket}/{picture.key}, was not fetched: check its bucket and key.",
        )
    return stored


def _reduce(picture: Image.Image, limits: PictureLimits, what: str) -> None:
    """Choose the size at which the picture is decoded. Raises `RenderFault` if even the smallest is too large."""
    is_jpeg = picture.format in ("JPEG", "MPO")
    width, height = picture.size
    if width * height <= limits.pixels_max:
        return
    reduction = (
        jpeg_reduction(
            width, height, pixels_max=limits.pixels_max, is_progressive=bool(picture.info.get("progressive"))
        )
        if is_jpeg
        else None
    )
    if reduction is None:
        raise _too_many_pixels(limits, what, f"{width} x {height} pixels")
    picture.draft(None, (width // reduction, height // reduction))
    if picture.width * picture.height > limits.pixels_max:
        raise _too_many_pixels(limits, what, f"{width} x {height} pixels")


def _too_many_pixels(limits: PictureLimits, what: str, size: str = "too many pixels") -> RenderFault:
    return RenderFault(
        FaultKind.REQUEST,
        "image_too_large",
        f"{what} has {size}, at most {limits.pixels_max} pixels are decoded "
        "(DARKROOM_LIMITS__POSE_PICTURE_PIXELS_MAX; larger ones only as a JPEG that is not progressive): send a "
        "smaller one.",
    )


def _unreadable(content: bytes, error: Exception, what: str) -> RenderFault:
    name = foreign_format(content) if isinstance(error, UnidentifiedImageError) else None
    message = (
        f"{what} is not a whole PNG, JPEG or WebP file ({type(error).__name__}): save it anew."
        if name is None
        else f"{what} is {name}, and only PNG, JPEG or WebP is read. {foreign_remedy(name)}"
    )
    return RenderFault(FaultKind.REQUEST, "pose_unreadable", message)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        return _grey_of_16_bits(picture).convert("RGB")
    if not picture.has_transparency_data:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    layer = picture.convert("RGBA")
    ground = Image.new("RGBA", layer.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, layer).convert("RGB")


def _grey_of_16_bits(picture: Image.Image) -> Image.Image:
    """Scale 16-bit levels to 8 bits. Pillow's own conversion clips them at 255, which turns nearly everything white."""
    levels = [round(level / _SIXTEENTH_OF_EIGHT) for level in range(_LEVELS_16)]
    transparent = picture.info.get("transparency")
    if isinstance(transparent, int):
        levels[transparent] = 0
    return picture.convert("I").point(levels, "L")
