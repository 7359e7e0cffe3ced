"""Writes PNG files from pixels that were filtered and compressed already (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from PIL.PngImagePlugin import PngInfo

RGB: Final = (8, 2)
"""Bit depth and colour type (11.2.1): 8 bits of red, green and blue."""
PALETTE_OF_4: Final = (2, 3)
"""Two bits, which stand for a colour of the palette."""


def png_file(
    width: int, height: int, kind: tuple[int, int], pixels: bytes, *, text: PngInfo, palette: bytes | None = None
) -> bytes:
    """Return a PNG of `width` x `height` pixels.

    `kind`: bit depth and colour type. `pixels`: a zlib stream of the filtered rows (9.2, 10.1). `palette`: 3 bytes per
    colour. The text stands before the pixels, where readers find it without reading them.
    """
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, *kind, 0, 0, 0))]
    if palette is not None:
        chunks.append((b"PLTE", palette))
    chunks += [(name, data) for name, data, *_ in text.chunks]
    chunks += [(b"IDAT", pixels), (b"IEND", b"")]
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in chunks:
        parts += (struct.pack(">I", len(data)), name, data, struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))
    return b"".join(parts)
