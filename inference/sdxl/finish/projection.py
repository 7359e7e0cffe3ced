"""Latents to colours without the VAE: a linear projection, fitted to the VAE that the model has.

SDXL's latents are close to a picture an eighth of the size: each latent pixel's four numbers say, nearly linearly, the
mean colour of the 8 x 8 pixels that the VAE makes of it. The projection is the least-squares one over latents of
many scales, from flat to rough, which the VAE decodes once. It costs a product of small matrices where a decode costs
more than a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from PIL import Image
from torch.nn import functional

from darkroom.inference.sdxl.finish.pictures import decode_colours

_SIDE: Final = 32
"""Latent pixels of a sample: an SDXL picture of 256 x 256, which any device that runs the model can decode."""
_GRAINS: Final = (1, 3, 8, 32)
"""Noise of so many latent pixels a side, made smooth: flat colours, large shapes, textures."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Colour = weights (4 latent channels and a constant) times latents, in -1 to 1."""

    weights: torch.Tensor
    """(channels + 1, 3) fp32 on the model's device."""
    explained: float
    """The share of the colours' variance that it explains on samples that it was not fitted to (R squared)."""

    def picture(self, latents: torch.Tensor) -> Image.Image | None:
        """RGB, one pixel for each of (1, channels, height, width) latents; None where a value is not finite."""
        colours = _with_constant(latents[0].float()) @ self.weights
        if not bool(torch.isfinite(colours).all()):
            return None
        levels = ((colours * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(levels.cpu().numpy(), mode="RGB")


def fit_projection(vae: Any, *, device: torch.device) -> Projection:
    """Fit it to what `vae` makes of latents of unit variance, as the UNet has them; the same ones each time."""
    generator = torch.Generator("cpu").manual_seed(0)
    fitted: list[tuple[torch.Tensor, torch.Tensor]] = []
    judged: list[tuple[torch.Tensor, torch.Tensor]] = []
    for grain in _GRAINS:
        for samples in (fitted, judged):
            latents = _sample(grain, vae.config["latent_channels"], generator).to(device)
            samples.append((_with_constant(latents[0]).flatten(0, 1), _colours(vae, latents)))
    inputs, colours = (torch.cat(parts).double().cpu() for parts in zip(*fitted, strict=True))
    weights = torch.linalg.lstsq(inputs, colours).solution
    inputs, colours = (torch.cat(parts).double().cpu() for parts in zip(*judged, strict=True))
    unexplained = ((inputs @ weights - colours) ** 2).sum() / ((colours - colours.mean(0)) ** 2).sum()
    return Projection(weights.float().to(device), 1 - float(unexplained))


def _sample(grain: int, channels: int, generator: torch.Generator) -> torch.Tensor:
    """(1, channels, side, side) fp32: smooth noise whose spots are `side / grain` latent pixels wide, unit variance."""
    noise = torch.randn(1, channels, grain, grain, generator=generator)
    smooth = functional.interpolate(noise, (_SIDE, _SIDE), mode="bicubic")
    return smooth / smooth.square().mean().sqrt()


def _colours(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """(side * side, 3): the mean colour of the pixels that the VAE makes of each latent pixel."""
    small = functional.adaptive_avg_pool2d(decode_colours(vae, latents), (_SIDE, _SIDE))
    return small[0].permute(1, 2, 0).flatten(0, 1)


def _with_constant(latents: torch.Tensor) -> torch.Tensor:
    """(channels, height, width) to (height, width, channels + 1)."""
    return torch.cat([latents, torch.ones_like(latents[:1])]).permute(1, 2, 0)
