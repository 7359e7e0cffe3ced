"""Lists the ways to lay out a model on a device, with the memory that each takes. Pure; `memory_plan` chooses one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from darkroom.inference.planning.memory_model import (
    DTYPE_BYTES,
    RESERVE_BYTES,
    ModelSize,
    decode_bytes,
    kept_bytes,
    prepare_bytes,
    step_bytes,
)
from darkroom.inference.types import Series


class Place(Enum):
    """The device that holds a part of the model."""

    SAME = "the same device"
    CPU = "the CPU"
    SECOND = "a second device"


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """The device of each part, and the lanes that take turns."""

    text_place: Place
    vae_place: Place
    series: Series

    @property
    def offload(self) -> bool:
        """True if weights move to the device for their lane's turn and leave it afterwards."""
        return self.series is Series.ALL


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peak bytes on the device, margins included."""

    resident: int
    """Always allocated: weights that stay, caches, and the reserve."""
    prepare: int
    """Added by the prepare lane at its peak."""
    denoise_weights: int
    """Added by the denoise lane before its first row: its weights, if they move with its turn."""
    denoise_row: int
    """Added to a step by each guided, posed row of the largest picture."""
    economy_row: int
    """The part of it that only an economy row takes."""
    finish: int
    """Added by decoding one picture, or as many as are decoded at once."""

    def total(self, series: Series, rows: int) -> int:
        """Return the device's peak bytes with steps of `rows` rows of the largest picture."""
        denoise = self.denoise_weights + rows * self.denoise_row
        return (
            self.resident
            + {
                Series.NONE: self.prepare + denoise + self.finish,
                Series.DENOISE_AND_FINISH: self.prepare + max(denoise, self.finish),
                Series.ALL: max(self.prepare, denoise, self.finish),
            }[series]
        )

    def left_for_rows(self, series: Series, usable_bytes: int) -> int:
        """Return the bytes left for the rows of a step; negative if everything else does not fit."""
        beside = {
            Series.NONE: self.prepare + self.finish,
            Series.DENOISE_AND_FINISH: self.prepare,
            Series.ALL: 0,
        }[series]
        return usable_bytes - self.resident - self.denoise_weights - beside


def layouts(text_place: Place | None, vae_place: Place | None) -> Iterator[MemoryLayout]:
    """Yield every layout worth trying, the best first; a place other than None was set by the operator and is kept."""
    vae = vae_place or Place.SAME
    texts = (Place.SAME, Place.CPU) if text_place is None else (text_place,)
    # With the VAE elsewhere, decoding takes no memory here, so turns gain nothing.
    for series in (Series.NONE, Series.DENOISE_AND_FINISH) if vae is Place.SAME else (Series.NONE,):
        for text in texts:
            yield MemoryLayout(text, vae, series)
    yield MemoryLayout(texts[0], vae, Series.ALL)


def peaks_of(
    layout: MemoryLayout, model: ModelSize, *, dtype: str, vae_dtype: str, width: int, height: int, held_bytes: int
) -> Peaks:
    """Return the peaks of a layout with pictures of width x height; `held_bytes` are held besides the model
    (caches)."""
    size = DTYPE_BYTES[dtype]
    pixels = width * height
    networks = (model.unet + model.controlnet) * size
    texts = model.text_encoders * size if layout.text_place is Place.SAME else 0
    on_device = layout.vae_place is Place.SAME
    vae = model.vae * DTYPE_BYTES[vae_dtype] if on_device else 0
    prepare = prepare_bytes(model, dtype, pixels)
    latent_pixels = pixels // model.latent_factor**2
    row = step_bytes(model, dtype, latent_pixels, with_control=True)
    economy = kept_bytes(model, dtype, latent_pixels)
    decode = decode_bytes(model, vae_dtype, pixels) if on_device else 0
    kept = RESERVE_BYTES + held_bytes
    if layout.offload:
        return Peaks(kept, prepare + texts, networks, row, economy, decode + vae)
    return Peaks(kept + networks + texts + vae, prepare, 0, row, economy, decode)
