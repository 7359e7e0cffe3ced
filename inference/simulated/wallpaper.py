"""Makes a picture from a digest: cheap, and different for every digest.

Eight by eight cells in four colours form a tile of 64 pixels, and tiles fill the picture.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping
from typing import Final

from PIL import Image
from PIL.PngImagePlugin import PngInfo

SHOWN_BYTES: Final = 28
"""Bytes that decide a tile: 16 bytes of cells, two bits each, and four colours of 3 bytes."""
_TILE_PX: Final = 64
_CELL_PX: Final = 8
_CELLS: Final = tuple(bytes([value * 0x55] * 2) for value in range(4))
"""Eight pixels of each of the four colours, at two bits per pixel."""


def wallpaper(shown: bytes, width: int, height: int, text: Mapping[str, str]) -> bytes:
    """Return a PNG of `width` x `height` pixels that shows the first `SHOWN_BYTES` of `shown`, with text chunks.

    Written by hand because the general encoder takes longer than the rest of a simulated job. PNG specification, second
    edition: sections 9.2 (filter type 0), 10.1 (zlib), 11.2.2 (IHDR), 11.2.3 (PLTE).
    """
    row_bytes = (width + 3) // 4
    tiles_across, tiles_down = -(-width // _TILE_PX), -(-height // _TILE_PX)
    bands = []
    for at in range(0, 16, 2):
        cells = shown[at] << 8 | shown[at + 1]
        tile_row = b"".join(_CELLS[cells >> shift & 3] for shift in range(14, -2, -2))
        bands.append((b"\0" + (tile_row * tiles_across)[:row_bytes]) * _CELL_PX)
    pixels = (b"".join(bands) * tiles_down)[: height * (row_bytes + 1)]
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 2, 3, 0, 0, 0)),
        (b"PLTE", shown[16:SHOWN_BYTES]),
        *((name, data) for name, data, _ in info.chunks),
        (b"IDAT", zlib.compress(pixels, 1)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def reencoded(png: bytes, image_format: str, quality: int) -> bytes:
    """Return the same picture as `jpeg` or `webp`, which carry no text."""
    encoded = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=("PNG",)) as picture:
        picture.convert("RGB").save(encoded, image_format.upper(), quality=quality)
    return encoded.getvalue()
