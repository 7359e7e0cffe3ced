"""Makes a picture from a digest: cheap, and different for every digest.

Eight by eight cells in four colours form a tile of 64 pixels, and tiles fill the picture.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from typing import Final

from PIL import Image

from darkroom.inference.marks import embedded, png_text
from darkroom.inference.png import PALETTE_OF_4, png_file

SHOWN_BYTES: Final = 28
"""Bytes that decide a tile: 16 bytes of cells, two bits each, and four colours of 3 bytes."""
_TILE_PX: Final = 64
_CELL_PX: Final = 8
_CELLS: Final = tuple(bytes([value * 0x55] * 2) for value in range(4))
"""Eight pixels of each of the four colours, at two bits per pixel."""


def wallpaper(shown: bytes, width: int, height: int, text: Mapping[str, str]) -> bytes:
    """Return a PNG of `width` x `height` pixels that shows the first `SHOWN_BYTES` of `shown`, with text chunks.

    The general encoder takes longer than the rest of a simulated job. The rows have filter type 0 (PNG specification,
    third edition, 9.2).
    """
    row_bytes = (width + 3) // 4
    tiles_across, tiles_down = -(-width // _TILE_PX), -(-height // _TILE_PX)
    bands = []
    for at in range(0, 16, 2):
        cells = shown[at] << 8 | shown[at + 1]
        tile_row = b"".join(_CELLS[cells >> shift & 3] for shift in range(14, -2, -2))
        bands.append((b"\0" + (tile_row * tiles_across)[:row_bytes]) * _CELL_PX)
    pixels = (b"".join(bands) * tiles_down)[: height * (row_bytes + 1)]
    return png_file(
        width, height, PALETTE_OF_4, zlib.compress(pixels, 1), text=png_text(text), palette=shown[16:SHOWN_BYTES]
    )


def reencoded(png: bytes, image_format: str, quality: int, text: Mapping[str, str]) -> bytes:
    """Return the same picture as `jpeg` or `webp`, with the text where they have room for it."""
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        picture.convert("RGB").save(encoded, image_format.upper(), quality=quality, **embedded(text, image_format))
    return encoded.getvalue()
