"""Trains the VAE: from pictures to white latents and back, with noise added in between.

There is no KL term. Latents are whitened by their own mean and covariance, so that no channel can die or duplicate
another. A little noise is added before they are decoded, so that similar latents give similar pixels and the decoder
tolerates the denoiser's small errors. (With each channel normalised separately, all channels became the same: 14.7 dB
after 500 steps, which whitened latents reached after 100.) At the end the statistics are folded into `quant_conv` and
`post_quant_conv`, which gives an ordinary `AutoencoderKL` with SDXL's scaling factor.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch.nn import functional

from darkroom.tools.tiny.training.blueprint import LATENT_CHANNELS, NATIVE_PX, SCALING_FACTOR, make_vae
from darkroom.tools.tiny.training.checkpoint import TrainingStage
from darkroom.tools.tiny.training.drawn import Array, Shards, shard_size, to_levels

_RATE: Final = 2e-3
_MUON_RATE: Final = 0.02
_BATCH: Final = 8
_CROP_PX: Final = 64
_WHOLE_FROM: Final = 0.85
"""The share of the time after which training uses whole pictures instead of crops."""
_LATENT_NOISE: Final = 0.1
_MEMORY: Final = 0.99
_RIDGE: Final = 1e-4
_POSTERIOR_LOGVAR: Final = -30.0


def vae_stage(file: Path, seconds: float) -> TrainingStage:
    """Return the VAE's training, continued from its checkpoint if there is one."""
    stage = TrainingStage(file, make_vae(), seconds, _RATE, _MUON_RATE)
    if not stage.extra:
        stage.extra = {"mean": torch.zeros(LATENT_CHANNELS), "covariance": torch.eye(LATENT_CHANNELS)}
    return stage


def vae_loss(stage: TrainingStage, shards: Shards, dice: np.random.Generator) -> Callable[[], torch.Tensor]:
    """Return a function that draws crops and returns the loss of the networks in training."""
    pictures = _native_pictures(shards)

    def loss() -> torch.Tensor:
        levels = to_levels(_crops(pictures, stage.seconds < _WHOLE_FROM * stage.seconds_total, dice))
        latents = _latents(stage.networks, levels)
        flat = latents.transpose(0, 1).flatten(1)
        mean, covariance = flat.mean(1), torch.cov(flat)
        _remember(stage.extra, mean.detach(), covariance.detach())
        white = _times(whitening(covariance), latents - mean[:, None, None])
        return reconstruction_loss(_decoded(stage.networks, white + _LATENT_NOISE * torch.randn_like(white)), levels)

    return loss


def reconstruction_loss(painted: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Return the loss of levels and, to keep edges sharp, of the differences between neighbours."""
    loss: torch.Tensor = functional.l1_loss(painted, levels) + functional.mse_loss(painted, levels)
    for axis in (2, 3):
        loss = loss + functional.l1_loss(painted.diff(dim=axis), levels.diff(dim=axis))
    return loss


def whitening(covariance: torch.Tensor) -> torch.Tensor:
    """Return the matrix that whitens latents of this covariance: the inverse of its Cholesky factor."""
    ridge = _RIDGE * covariance.trace() / len(covariance) * torch.eye(len(covariance))
    matrix: torch.Tensor = torch.linalg.inv(torch.linalg.cholesky(covariance + ridge))
    return matrix


@torch.no_grad()
def finished_vae(stage: TrainingStage) -> Any:
    """Return the averaged weights as an `AutoencoderKL` whose scaled latents are white."""
    vae: Any = deepcopy(stage.average)
    matrix = whitening(stage.extra["covariance"]) / SCALING_FACTOR
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.bias[:LATENT_CHANNELS] = matrix @ (quant.bias[:LATENT_CHANNELS] - stage.extra["mean"])
    quant.weight[:LATENT_CHANNELS] = torch.einsum("ij,jchw->ichw", matrix, quant.weight[:LATENT_CHANNELS])
    quant.weight[LATENT_CHANNELS:] = 0.0
    quant.bias[LATENT_CHANNELS:] = _POSTERIOR_LOGVAR
    post.weight *= SCALING_FACTOR
    return vae.eval()


def decoder_stage(file: Path, vae: Any, seconds: float) -> TrainingStage:
    """Return the further training of a finished VAE's decoder alone: latents stay the same, and edges become
    cleaner."""
    networks = torch.nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
    return TrainingStage(file, deepcopy(networks).requires_grad_(True), seconds, _RATE, _MUON_RATE / 4)


def decoder_loss(
    stage: TrainingStage, vae: Any, shards: Shards, dice: np.random.Generator
) -> Callable[[], torch.Tensor]:
    """Return a function that draws crops and returns the decoder's loss on the latents of `vae`."""
    networks: Any = stage.networks
    pictures = _native_pictures(shards)

    def loss() -> torch.Tensor:
        levels = to_levels(_crops(pictures, stage.seconds < _WHOLE_FROM * stage.seconds_total, dice))
        latents = encode(vae, levels)
        latents = (latents + _LATENT_NOISE * torch.randn_like(latents)) / SCALING_FACTOR
        return reconstruction_loss(networks["decoder"](networks["post_quant_conv"](latents)), levels)

    return loss


def with_decoder(vae: Any, stage: TrainingStage) -> Any:
    """Return the VAE with the stage's averaged decoder."""
    average: Any = stage.average
    changed = deepcopy(vae)
    changed.post_quant_conv, changed.decoder = average["post_quant_conv"], average["decoder"]
    return changed.eval().requires_grad_(False)


@torch.no_grad()
def encode(vae: Any, levels: torch.Tensor) -> torch.Tensor:
    """Encode pictures to scaled latents, as the denoiser takes them."""
    latents: torch.Tensor = vae.encode(levels).latent_dist.mode() * SCALING_FACTOR
    return latents


@torch.no_grad()
def reconstruction_db(vae: Any, pictures: Array) -> float:
    """Return the peak signal-to-noise ratio, in dB, of pictures that went through the VAE."""
    levels = to_levels(pictures)
    error = functional.mse_loss(vae.decode(encode(vae, levels) / SCALING_FACTOR).sample.clamp(-1, 1), levels)
    return float(10 * torch.log10(4.0 / error))


def _native_pictures(shards: Shards) -> list[Array]:
    native = [number for number in range(shards.count) if shard_size(number) == (NATIVE_PX, NATIVE_PX)]
    return [shards.pictures(number) for number in native]


def _crops(pictures: list[Array], small: bool, dice: np.random.Generator) -> Array:
    """Return (batch, height, width, 3): crops of half the side, or a quarter as many whole pictures."""
    if not small:
        return np.stack([_any_picture(pictures, dice) for _ in range(_BATCH // 4)])
    return np.stack([_busy_crop(_any_picture(pictures, dice), dice) for _ in range(_BATCH)])


def _any_picture(pictures: list[Array], dice: np.random.Generator) -> Array:
    shard = pictures[dice.integers(len(pictures))]
    whole: Array = shard[dice.integers(len(shard))]
    return whole


def _busy_crop(whole: Array, dice: np.random.Generator) -> Array:
    """Return the crop with most detail out of three, on and off the latents' grid: most of a picture is background."""
    corners = dice.integers(0, NATIVE_PX - _CROP_PX + 1, (3, 2))
    crops = [whole[y : y + _CROP_PX, x : x + _CROP_PX] for y, x in corners]
    return max(crops, key=lambda crop: float(crop[::4, ::4].std(axis=(0, 1)).sum()))


def _latents(vae: Any, levels: torch.Tensor) -> torch.Tensor:
    latents: torch.Tensor = vae.quant_conv(vae.encoder(levels))[:, :LATENT_CHANNELS]
    return latents


def _decoded(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    levels: torch.Tensor = vae.decoder(vae.post_quant_conv(latents))
    return levels


def _times(matrix: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, latents)


def _remember(extra: dict[str, torch.Tensor], mean: torch.Tensor, covariance: torch.Tensor) -> None:
    extra["mean"] = extra["mean"].lerp(mean, 1 - _MEMORY)
    extra["covariance"] = extra["covariance"].lerp(covariance, 1 - _MEMORY)
