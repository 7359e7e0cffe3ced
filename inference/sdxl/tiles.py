"""Which pictures are decoded in tiles. Tiles change a picture a little where they meet, so its size alone decides."""

from __future__ import annotations

from typing import Any

import torch


def choose_tiles(vae: Any, latents: torch.Tensor, above_pixels: int) -> None:
    """Let the next decode of `latents` be in tiles, as diffusers' `enable_tiling` cuts them, above so many pixels.

    diffusers by itself would go by the longer side, and cut pictures of SDXL's own sizes, such as 1152 x 896.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.use_tiling = latents.shape[-1] * latents.shape[-2] * factor**2 > above_pixels
