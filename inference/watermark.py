"""An imperceptible mark in a picture's pixels, and its detector: a pattern in tiles, added to the brightness.

The method is that of Kalker, Depovere, Haitsma and Maes, "A video watermarking system for broadcast monitoring" (SPIE
3657, 1999): one tile of noise is repeated over the picture, the stronger the busier the picture is there. The detector
divides the picture into tiles, adds them up, and correlates the sum with the tile by phase alone. A crop moves the peak
and keeps it; a picture that was resized is tried at many scales.

It says that Darkroom painted the picture, and nothing of who or what. Everybody can detect it, since the pattern is
published, and whoever wants to remove it can.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from darkroom.inference.types import WATERMARK_SIDE_PX_MIN

TILE_PX: Final = 64
_SEED: Final = 20_261_201
_BAND: Final = (0.06, 0.20)
"""Cycles a pixel: high enough not to be seen as blotches, low enough to live through half the size and through JPEG."""
_STRENGTH: Final = 1.0
"""Standard deviation of the pattern in levels of 255 where the picture is of middling busyness."""
_QUIET, _BUSY, _LEVELS = 0.6, 2.0, 12.0
"""How much weaker the pattern is in flat places, how much stronger at most, and the local deviation that adds 1."""
SCORE_MIN: Final = 7.0
"""A peak of so many standard deviations is the mark. Of 4,096 shifts at 62 scales, chance reaches 4 to 6."""
_SCALES: Final = (1.0, 2.0, *np.geomspace(0.6, 2.4, 60).tolist())
"""As it is and enlarged from half first; the search ends at the first scale that shows the mark."""
_LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
_LOOKED_AT_PX_MAX: Final = 1024
"""The side of what is looked at, in the middle of a larger picture: enough tiles, and a bound on time."""
_PIXELS_MAX: Final = 64 * 1024 * 1024
"""Above 4096 x 4096; a bound on memory."""

Levels = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Found:
    """Result of looking for the mark."""

    is_marked: bool
    score: float
    """Height of the highest peak in standard deviations."""
    scale: float
    """The factor that brings the picture back to the size at which it was marked, if it is marked."""


class PictureUnsuitable(ValueError):  # noqa: N818 - said of a file
    """A picture in which the mark cannot be looked for: one sentence."""


def marked(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (height, width, 3) RGB levels with the mark in them; those of a picture that is too small as they are."""
    height, width, _ = pixels.shape
    if min(height, width) < WATERMARK_SIDE_PX_MIN:
        return pixels
    colours = pixels.astype(np.float32)
    luma = colours @ _LUMA
    mean = _blurred(luma, 7)
    deviation = np.sqrt(np.maximum(_blurred(luma * luma, 7) - mean * mean, 0))
    strength = np.clip(_QUIET + deviation / _LEVELS, _QUIET, _BUSY) * _STRENGTH
    tiled = np.tile(_pattern(), (height // TILE_PX + 1, width // TILE_PX + 1))[:height, :width]
    colours += (strength * tiled)[:, :, None]
    return np.clip(np.rint(colours), 0, 255).astype(np.uint8)


def look_for_mark(content: bytes) -> Found:
    """Look for the mark in the file of a picture. Raises `PictureUnsuitable`."""
    luma = _middle(content)
    best = Found(False, 0.0, 1.0)
    for scale in _SCALES:
        score = _score(_resized(luma, scale))
        if score > best.score:
            best = Found(score >= SCORE_MIN, score, scale)
        if best.is_marked:
            break
    return best


def _middle(content: bytes) -> Levels:
    """Return the brightness of the middle of a picture. Raises `PictureUnsuitable`."""
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as opened:
            width, height = opened.size
            if width * height <= _PIXELS_MAX:
                side = _LOOKED_AT_PX_MAX
                left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
                middle = opened.convert("RGB").crop((left, top, min(width, left + side), min(height, top + side)))
                return np.asarray(middle, np.float32) @ _LUMA
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PictureUnsuitable("The file is no PNG, JPEG or WebP picture, or it is not whole.") from error
    raise PictureUnsuitable(f"The picture has {width * height} pixels. Scale it to {_PIXELS_MAX} or fewer.")


def _score(luma: Levels) -> float:
    """Return the height of the correlation's peak, in its standard deviations."""
    height, width = luma.shape
    if min(height, width) < TILE_PX:
        return 0.0
    rough = luma - _blurred(luma, 9)
    rough /= np.sqrt(_blurred(rough * rough, 9)) + 1
    rows, columns = -(-height // TILE_PX), -(-width // TILE_PX)
    padded = np.zeros((rows * TILE_PX, columns * TILE_PX), np.float32)
    padded[:height, :width] = rough
    tile = padded.reshape(rows, TILE_PX, columns, TILE_PX).sum((0, 2))
    spectrum, wanted = np.fft.rfft2(tile), np.conj(np.fft.rfft2(_pattern()))
    in_band = _in_band()
    phases = np.where(in_band, spectrum / (np.abs(spectrum) + 1e-9) * wanted / (np.abs(wanted) + 1e-9), 0)
    peaks = np.fft.irfft2(phases, s=(TILE_PX, TILE_PX))
    deviation = float(peaks.std())
    return float(peaks.max()) / deviation if deviation > 0 else 0.0


def _resized(luma: Levels, scale: float) -> Levels:
    if scale == 1.0:
        return luma
    height, width = (max(1, round(side * scale)) for side in luma.shape)
    return np.asarray(Image.fromarray(luma).resize((width, height), Image.Resampling.BICUBIC), np.float32)


@cache
def _pattern() -> Levels:
    """Return the tile: noise of one band of frequencies, all of the same strength, of mean 0 and deviation 1."""
    noise = np.fft.rfft2(np.random.Generator(np.random.PCG64(_SEED)).standard_normal((TILE_PX, TILE_PX)))
    tile = np.fft.irfft2(np.exp(1j * np.angle(noise)) * _in_band(), s=(TILE_PX, TILE_PX))
    levels: Levels = (tile / tile.std()).astype(np.float32)
    return levels


@cache
def _in_band() -> Any:
    frequencies = np.hypot(np.fft.fftfreq(TILE_PX)[:, None], np.fft.rfftfreq(TILE_PX)[None, :])
    return (frequencies > _BAND[0]) & (frequencies < _BAND[1])


def _blurred(levels: Levels, side: int) -> Levels:
    """Return the mean of the `side` x `side` levels around each one, the border repeated."""
    for axis in (0, 1):
        around = [(side // 2 + 1, side // 2) if one == axis else (0, 0) for one in (0, 1)]
        sums = np.cumsum(np.pad(levels, around, mode="edge"), axis=axis, dtype=np.float64)
        upper, lower = (slice(side, None), slice(None, -side))
        difference = sums[upper] - sums[lower] if axis == 0 else sums[:, upper] - sums[:, lower]
        levels = (difference / side).astype(np.float32)
    return levels
