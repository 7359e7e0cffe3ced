"""Turns latents into colours without the VAE: a linear projection, fitted to the model's own VAE.

SDXL's latents resemble a picture of an eighth of the size: each latent pixel's four numbers determine, nearly linearly,
the mean colour of the 8 x 8 pixels that the VAE makes of it. The projection is the least-squares fit over latents of
many scales, from flat to rough, which the VAE decodes once. It costs one product of small matrices, whereas a decode
costs more than a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from PIL import Image
from torch.nn import functional

from darkroom.inference.sdxl.finish.pictures import decode_colours

_SIDE: Final = 32
"""Side of a sample in latent pixels: an SDXL picture of 256 x 256, which any device that runs the model can decode."""
_GRAINS: Final = (1, 3, 8, 32)
"""Sides, in latent pixels, of noise that is then smoothed: flat colours, large shapes, textures."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Colour = weights (4 latent channels and a constant) times latents, in -1 to 1."""

    weights: torch.Tensor
    """(channels + 1, 3) fp32 on the model's device."""
    explained: float
    """The share of the colours' variance that it explains on held-out samples (R squared)."""

    def picture(self, latents: torch.Tensor) -> Image.Image | None:
        """Return an RGB picture with one pixel per latent pixel of (1, channels, height, width); None if a value is not
        finite."""
        colours = _with_constant(latents[0].float()) @ self.weights
        if not bool(torch.isfinite(colours).all()):
            return None
        levels = ((colours * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
        return Image.fromarray(levels.cpu().numpy(), mode="RGB")


def fit_projection(vae: Any, *, device: torch.device) -> Projection:
    """Fit a projection to the colours that `vae` decodes from latents of unit variance, the same ones each time."""
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
    """Return (1, channels, side, side) fp32 smooth noise of unit variance, with spots `side / grain` latent pixels
    wide."""
    noise = torch.randn(1, channels, grain, grain, generator=generator)
    smooth = functional.interpolate(noise, (_SIDE, _SIDE), mode="bicubic")
    return smooth / smooth.square().mean().sqrt()


def _colours(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return (side * side, 3): the mean colour of the pixels that the VAE makes of each latent pixel."""
    small = functional.adaptive_avg_pool2d(decode_colours(vae, latents), (_SIDE, _SIDE))
    return small[0].permute(1, 2, 0).flatten(0, 1)


def _with_constant(latents: torch.Tensor) -> torch.Tensor:
    """Turn (channels, height, width) into (height, width, channels + 1), with a constant 1 as the last channel."""
    return torch.cat([latents, torch.ones_like(latents[:1])]).permute(1, 2, 0)
