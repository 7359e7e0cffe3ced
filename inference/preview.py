"""Encodes the small picture that is sent while the real one is unfinished."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image

from darkroom.inference.types import PREVIEW_BYTES_MAX, PREVIEW_SIDE_PX_MAX

_QUALITIES: Final = (80, 50, 20)
"""JPEG qualities, tried in this order until the file is small enough. Pure noise of 128 x 128 pixels takes 18 KiB at
80."""


def encode_preview(picture: Image.Image) -> bytes:
    """Encode an RGB picture as JPEG within the limits on previews, scaled down if it is too large.

    Colours are not subsampled, because a preview of the tiny model has only eight pixels a side.
    """
    longer = max(picture.size)
    if longer > PREVIEW_SIDE_PX_MAX:
        width, height = (max(1, side * PREVIEW_SIDE_PX_MAX // longer) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX)
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, subsampling=0)
        if buffer.tell() <= PREVIEW_BYTES_MAX:
            return buffer.getvalue()
    raise ValueError(f"a preview of {picture.width} x {picture.height} pixels has {buffer.tell()} bytes")
