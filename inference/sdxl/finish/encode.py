"""From a picture to the bytes of a file, the same bytes every time.

Nothing of the worker, the attempt or the time goes into a file: its digest is part of its name.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from darkroom.inference.contract import FaultKind, RenderedImage, RenderFault
from darkroom.schemas.names import CONTENT_TYPES, EXTENSIONS

PNG_COMPRESS_LEVEL: Final = 1
"""zlib's fastest: a painted picture hardly gets smaller at 6 and takes several times as long."""


def encode_picture(
    picture: Image.Image, *, image_format: str, quality: int, seed: int, text: Mapping[str, str]
) -> RenderedImage:
    """Encode an RGB picture as `png`, `webp` or `jpeg`.

    `text` goes into PNG's text chunks; the others have none. `quality` (1 to 100) is for the others. Raises
    `RenderFault` of the request for a format that is not one of the three.
    """
    if image_format not in CONTENT_TYPES:
        raise RenderFault(
            FaultKind.REQUEST,
            "invalid_request",
            f"There is no picture format {image_format!r}: use {', '.join(CONTENT_TYPES)}.",
        )
    buffer = io.BytesIO()
    if image_format == "png":
        picture.save(buffer, "PNG", compress_level=PNG_COMPRESS_LEVEL, pnginfo=_text_chunks(text))
    else:
        picture.save(buffer, image_format.upper(), quality=quality)
    return RenderedImage(
        content=buffer.getvalue(),
        width=picture.width,
        height=picture.height,
        seed=seed,
        content_type=CONTENT_TYPES[image_format],
        extension=EXTENSIONS[image_format],
    )


def _text_chunks(text: Mapping[str, str]) -> PngInfo:
    chunks = PngInfo()
    for key, value in text.items():
        # `add_text` falls back to an international chunk for what Latin-1 cannot say.
        chunks.add_text(key, value)
    return chunks
