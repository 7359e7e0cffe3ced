"""Makes a contact sheet: skeleton, picture and caption, side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from darkroom.tools.tiny.quality.looking import Pixels
from darkroom.tools.tiny.training.figures import Scene, skeleton

_COLUMNS: Final = 6
_CELL_PX: Final = 128
_TEXT_PX: Final = 40
_LETTERS: Final = 46


def contact_sheet(scenes: Sequence[Scene], pictures: Sequence[Pixels]) -> Image.Image:
    """Return the sheet: `_COLUMNS` pictures per row, each beside its skeleton and above its caption."""
    rows = -(-len(scenes) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * 2 * _CELL_PX, rows * (_CELL_PX + _TEXT_PX)), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=10)
    for place, (scene, pixels) in enumerate(zip(scenes, pictures, strict=True)):
        x, y = place % _COLUMNS * 2 * _CELL_PX, place // _COLUMNS * (_CELL_PX + _TEXT_PX)
        sheet.paste(skeleton(scene), (x, y))
        sheet.paste(Image.fromarray(pixels), (x + _CELL_PX, y))
        draw.text((x + 3, y + _CELL_PX + 2), textwrap.fill(scene.text, _LETTERS), fill=(0, 0, 0), font=font)
    return sheet
