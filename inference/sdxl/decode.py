"""From finished latents to a picture.

The latents are decoded one row at a time: the VAE is where a device's memory peaks, batching it gains little, and a
picture stays independent of its neighbours to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from inference.contract import FaultKind, RenderFault


def vae_dtype(vae_config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """The dtype to hold the VAE in.

    SDXL's own VAE overflows in fp16, and its configuration says so (`force_upcast`). diffusers' pipelines
    turn it into fp32 for each decoding and back again, in place; here it is fp32 from the start.
    """
    return torch.float32 if dtype is torch.float16 and vae_config.get("force_upcast", True) else dtype


def decode_latents(vae: Any, latents: torch.Tensor) -> Image.Image:
    """Decode (1, channels, height, width) latents to an RGB picture of the VAE's factor times that size.

    Raises `RenderFault` of the request, `render_failed`, where a value of the picture is not finite: converted to
    bytes it would be a black or white picture that looks like a success.
    """
    picture = decode_picture(vae, latents)
    if not bool(torch.isfinite(picture).all()):
        raise RenderFault(
            FaultKind.REQUEST,
            "render_failed",
            "The picture has values that are not finite: try another seed, less guidance or a smaller control scale.",
        )
    # From -1..1 to 0..255, rounding half to even, as diffusers' image processor does.
    levels = ((picture * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().cpu().numpy(), mode="RGB")


def decode_picture(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode (1, channels, height, width) latents to (3, height, width) fp32 colours, about -1 to 1."""
    decoded: torch.Tensor = vae.decode(_unscale(vae.config, latents.to(vae.dtype)), return_dict=False)[0]
    return decoded[0].float()


def _unscale(config: Mapping[str, Any], latents: torch.Tensor) -> torch.Tensor:
    """Undo the scaling under which the UNet was trained: by mean and deviation where the VAE has them."""
    scaling_factor: float = config["scaling_factor"]
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return latents / scaling_factor
    return latents * _by_channel(config["latents_std"], latents) / scaling_factor + _by_channel(
        config["latents_mean"], latents
    )


def _by_channel(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)
