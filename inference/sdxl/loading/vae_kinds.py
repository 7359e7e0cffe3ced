"""The two kinds of autoencoder that decode SDXL's latents, and what their configurations say in different words.

`AutoencoderKL` is SDXL's own. `AutoencoderTiny` (TAESD for SDXL, Bohan 2023) is distilled from it: it decodes in a
fraction of the time and memory, and loses fine detail. Pure, except for the classes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from diffusers import AutoencoderKL, AutoencoderTiny

TINY: Final = "AutoencoderTiny"
_LEVELS_DEFAULT: Final = (64, 64, 64, 64)
"""diffusers' default of an `AutoencoderTiny`'s channels by level."""
_TINY_TILE_PX: Final = 512
"""Side of a tile of diffusers' `AutoencoderTiny`, a constant there."""


@dataclass(frozen=True, slots=True)
class VaeKind:
    """Facts of a VAE that loading and planning need before it is built."""

    network: Any
    """diffusers' class."""
    channels: int
    """Channels of the decoder's level that has the picture's own size."""
    factor: int
    """Pixels of the picture for each of the latents, along a side."""
    tile_pixels: int
    """Pixels of one tile, if a picture is decoded in tiles."""
    overflows: bool
    """True if it overflows in fp16, so that its weights are kept in fp32."""


def is_tiny(config: Mapping[str, Any]) -> bool:
    """Return true for the configuration of an `AutoencoderTiny`."""
    return config.get("_class_name") == TINY


def vae_kind(config: Mapping[str, Any]) -> VaeKind:
    """Return the facts of a VAE with this `config.json`. Missing values are diffusers' defaults."""
    if is_tiny(config):
        levels = config.get("decoder_block_out_channels", _LEVELS_DEFAULT)
        scaling = config.get("upsampling_scaling_factor", 2)
        # diffusers never upcasts it, whatever `force_upcast` says in the file.
        return VaeKind(AutoencoderTiny, levels[-1], scaling ** (len(levels) - 1), _TINY_TILE_PX**2, overflows=False)
    levels = config["block_out_channels"]
    side = config.get("sample_size", 1024)
    height, width = side if isinstance(side, list) else (side, side)
    return VaeKind(
        AutoencoderKL, levels[0], 2 ** (len(levels) - 1), height * width, bool(config.get("force_upcast", True))
    )
