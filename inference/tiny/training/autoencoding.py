"""Trains the VAE: pictures to latents of unit variance and back, with noise on the way.

There is no KL term. Latents are normalised per channel by their own statistics, so none can die, and noise of a tenth
of their spread lies on them before they are decoded, so what is near in latents is near in pixels and the decoder
forgives the denoiser's small errors. At the end the statistics are folded into `quant_conv` and `post_quant_conv`, and
what comes out is an ordinary `AutoencoderKL` with SDXL's scaling factor.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from inference.tiny.training.blueprint import LATENT_CHANNELS, NATIVE_PX, SCALING_FACTOR, make_vae
from inference.tiny.training.checkpoint import Stage
from inference.tiny.training.drawn import Array, Shards, shard_size, to_levels

_RATE: Final = 2.5e-3
_BATCH: Final = 8
_CROP_PX: Final = 64
_WHOLE_FROM: Final = 0.85
"""The share of the time after which whole pictures are learnt from rather than crops."""
_LATENT_NOISE: Final = 0.1
_MEMORY: Final = 0.99
_POSTERIOR_LOGVAR: Final = -30.0


def vae_stage(file: Path, seconds: float) -> Stage:
    """The VAE's training, from its checkpoint where there is one."""
    stage = Stage(file, make_vae(), seconds, _RATE)
    if not stage.extra:
        stage.extra = {"mean": torch.zeros(LATENT_CHANNELS), "variance": torch.ones(LATENT_CHANNELS)}
    return stage


def vae_loss(stage: Stage, shards: Shards, dice: np.random.Generator) -> Callable[[], torch.Tensor]:
    """Draws crops and gives the loss of the networks in training."""
    native = [number for number in range(shards.count) if shard_size(number) == (NATIVE_PX, NATIVE_PX)]
    pictures = [shards.pictures(number) for number in native]

    def loss() -> torch.Tensor:
        levels = to_levels(_crops(pictures, stage.seconds < _WHOLE_FROM * stage.seconds_total, dice))
        latents = _latents(stage.networks, levels)
        mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3))
        _remember(stage.extra, mean.detach(), variance.detach())
        unit = (latents - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return reconstruction_loss(_decoded(stage.networks, unit + _LATENT_NOISE * torch.randn_like(unit)), levels)

    return loss


def reconstruction_loss(painted: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Levels and, so that edges stay sharp, their differences between neighbours."""
    loss = functional.l1_loss(painted, levels) + functional.mse_loss(painted, levels)
    for axis in (2, 3):
        loss = loss + functional.l1_loss(painted.diff(dim=axis), levels.diff(dim=axis))
    return loss


@torch.no_grad()
def finished_vae(stage: Stage) -> Any:
    """The averaged weights as an `AutoencoderKL` whose latents, scaled, have unit variance."""
    vae: Any = deepcopy(stage.average)
    mean, deviation = stage.extra["mean"], (stage.extra["variance"] + 1e-5).sqrt()
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:LATENT_CHANNELS] /= deviation[:, None, None, None] * SCALING_FACTOR
    quant.bias[:LATENT_CHANNELS] = (quant.bias[:LATENT_CHANNELS] - mean) / deviation / SCALING_FACTOR
    quant.weight[LATENT_CHANNELS:] = 0.0
    quant.bias[LATENT_CHANNELS:] = _POSTERIOR_LOGVAR
    post.weight *= SCALING_FACTOR
    return vae.eval()


@torch.no_grad()
def encode(vae: Any, levels: torch.Tensor) -> torch.Tensor:
    """Scaled latents, as the denoiser sees them."""
    latents: torch.Tensor = vae.encode(levels).latent_dist.mode() * SCALING_FACTOR
    return latents


@torch.no_grad()
def reconstruction_db(vae: Any, pictures: Array) -> float:
    """Peak signal-to-noise ratio of pictures that went through the VAE."""
    levels = to_levels(pictures)
    error = functional.mse_loss(vae.decode(encode(vae, levels) / SCALING_FACTOR).sample.clamp(-1, 1), levels)
    return float(10 * torch.log10(4.0 / error))


def _crops(pictures: list[Array], small: bool, dice: np.random.Generator) -> Array:
    """(batch, height, width, 3): crops of half the side, or a quarter as many whole pictures."""
    if not small:
        return np.stack([_any_picture(pictures, dice) for _ in range(_BATCH // 4)])
    return np.stack([_busy_crop(_any_picture(pictures, dice), dice) for _ in range(_BATCH)])


def _any_picture(pictures: list[Array], dice: np.random.Generator) -> Array:
    shard = pictures[dice.integers(len(pictures))]
    whole: Array = shard[dice.integers(len(shard))]
    return whole


def _busy_crop(whole: Array, dice: np.random.Generator) -> Array:
    """Of three crops, on and off the latents' grid, the one with most to see: most of a picture is background."""
    corners = dice.integers(0, NATIVE_PX - _CROP_PX + 1, (3, 2))
    crops = [whole[y : y + _CROP_PX, x : x + _CROP_PX] for y, x in corners]
    return max(crops, key=lambda crop: float(crop[::4, ::4].std(axis=(0, 1)).sum()))


def _latents(vae: Any, levels: torch.Tensor) -> torch.Tensor:
    latents: torch.Tensor = vae.quant_conv(vae.encoder(levels))[:, :LATENT_CHANNELS]
    return latents


def _decoded(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    levels: torch.Tensor = vae.decoder(vae.post_quant_conv(latents))
    return levels


def _remember(extra: dict[str, torch.Tensor], mean: torch.Tensor, variance: torch.Tensor) -> None:
    extra["mean"] = extra["mean"].lerp(mean, 1 - _MEMORY)
    extra["variance"] = extra["variance"].lerp(variance, 1 - _MEMORY)
