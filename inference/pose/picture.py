"""Decodes a picture that a stranger sent, without letting it cost more than it may.

The bytes are counted before anything looks at them and the pixels before any of them is decoded. Only three
formats are tried, so that the other forty that Pillow knows are no way in.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageOps

from inference.contract import FaultKind, RenderFault

FORMATS: Final = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """What a picture that comes from outside may cost."""

    bytes_max: int = 8 * 1024 * 1024
    """Encoded. A skeleton is some 20 KiB, a photo from a telephone 2 to 5 MiB."""
    pixels_max: int = 16 * 1024 * 1024
    """Decoded: 48 MiB of memory for a square of 4,096 pixels, four times the side of what is painted."""


def decode_picture(content: bytes, limits: PictureLimits) -> Image.Image:
    """Decode a PNG, JPEG or WebP picture to RGB, upright, its first frame where it is animated.

    Transparent pixels become black, the ground of every skeleton. Raises `RenderFault` of the request:
    `image_too_large` where a limit is passed, `pose_unreadable` for anything that is not a whole picture.
    """
    if len(content) > limits.bytes_max:
        raise RenderFault(
            FaultKind.REQUEST,
            "image_too_large",
            f"The pose's picture has {len(content)} bytes, at most {limits.bytes_max} are read: send a smaller one.",
        )
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            _refuse_too_many_pixels(picture, limits)
            picture.load()
            return _on_black(ImageOps.exif_transpose(picture))
    except (RenderFault, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(limits) from error
    # Pillow answers a malformed file with a dozen exception types, and all of them mean the same here.
    except Exception as error:
        raise RenderFault(
            FaultKind.REQUEST,
            "pose_unreadable",
            f"The pose's picture is not a whole PNG, JPEG or WebP file ({type(error).__name__}): save it anew.",
        ) from error


def _refuse_too_many_pixels(picture: Image.Image, limits: PictureLimits) -> None:
    if picture.width * picture.height > limits.pixels_max:
        raise _too_many_pixels(limits, f"{picture.width} x {picture.height} pixels")


def _too_many_pixels(limits: PictureLimits, size: str = "too many pixels") -> RenderFault:
    return RenderFault(
        FaultKind.REQUEST,
        "image_too_large",
        f"The pose's picture has {size}, at most {limits.pixels_max} pixels are decoded: send a smaller one.",
    )


def _on_black(picture: Image.Image) -> Image.Image:
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    ground = Image.new("RGBA", layer.size, (0, 0, 0, 255))
    return Image.alpha_composite(ground, layer).convert("RGB")
