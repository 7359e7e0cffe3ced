"""Trains UNet, ControlNet and both text encoders together, from scratch.

The UNet predicts the noise on SDXL's noise schedule. Losses are weighted by signal-to-noise ratio, clipped at 5 (Hang
et al. 2023, "Min-SNR"). The noise has a random offset per picture and channel. Without it a picture's mean, and with it
the background's colour, would never be fully hidden in training and would drift in sampling.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from darkroom.tools.tiny.training.blueprint import make_denoiser, make_scheduler, make_tokenizers
from darkroom.tools.tiny.training.checkpoint import TrainingStage
from darkroom.tools.tiny.training.drawn import Batch, Pairs

_RATE: Final = 1.0e-3
_BATCH: Final = 24
_SNR_MAX: Final = 5.0
_OFFSET_NOISE: Final = 0.1
_NO_TEXT_SHARE: Final = 0.1
_NO_POSE_SHARE: Final = 0.05


def denoiser_stage(file: Path, seconds: float) -> TrainingStage:
    """Return the training of the four networks, continued from its checkpoint if there is one."""
    return TrainingStage(file, make_denoiser(), seconds, _RATE)


def denoiser_loss(
    stage: TrainingStage, pairs: Pairs, dice: np.random.Generator, batch_size: int = _BATCH
) -> Callable[[], torch.Tensor]:
    """Return a function that draws pairs and returns the loss of the networks in training."""
    texts = Texts()
    signal = make_scheduler().alphas_cumprod

    def loss() -> torch.Tensor:
        batch = pairs.batch(batch_size, dice)
        timesteps = torch.from_numpy(dice.integers(0, len(signal), batch_size))
        noise = torch.randn_like(batch.latents)
        noise += _OFFSET_NOISE * torch.randn(*batch.latents.shape[:2], 1, 1)
        share = signal[timesteps]
        noised = share.sqrt()[:, None, None, None] * batch.latents + (1 - share).sqrt()[:, None, None, None] * noise
        predicted = predict(stage.networks, noised, timesteps, batch, texts=texts, dice=dice)
        ratio = share / (1 - share)
        weights = ratio.clamp(max=_SNR_MAX) / ratio
        weighted: torch.Tensor = (weights * (predicted - noise).square().mean((1, 2, 3))).mean()
        return weighted

    return loss


def predict(
    networks: Any,
    noised: torch.Tensor,
    timesteps: torch.Tensor,
    batch: Batch,
    *,
    texts: Texts,
    dice: np.random.Generator,
) -> torch.Tensor:
    """Return the predicted noise, with some rows without their caption and some without their pose."""
    count = len(batch.texts)
    captions, is_silent = _without_some(batch.texts, dice)
    tokens, pooled = texts.embed(networks, captions)
    heard = torch.from_numpy(~is_silent).float()
    ids = torch.tensor([[batch.height, batch.width, 0, 0, batch.height, batch.width]]).float().expand(count, 6)
    tokens, pooled = tokens * heard[:, None, None], pooled * heard[:, None]
    conditions: dict[str, Any] = {"text_embeds": pooled, "time_ids": ids}
    scale = torch.from_numpy(dice.random(count) >= _NO_POSE_SHARE).float()[:, None, None, None]
    down, middle = networks["controlnet"](
        noised,
        timesteps,
        tokens,
        batch.skeletons,
        conditioning_scale=scale,
        added_cond_kwargs=conditions,
        return_dict=False,
    )
    predicted: torch.Tensor = networks["unet"](
        noised,
        timesteps,
        tokens,
        added_cond_kwargs=conditions,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample
    return predicted


class Texts:
    """Encodes captions for the UNet: both encoders' penultimate layers, and the second encoder's pooled embedding."""

    def __init__(self) -> None:
        self._tokenizers = make_tokenizers()
        self._ids: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def embed(self, networks: Any, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (batch, 77, width of both) token embeddings and (batch, pooled width), with gradients."""
        ids = [self._tokens(text) for text in captions]
        first = networks["text_encoder"](torch.stack([a for a, _ in ids]), output_hidden_states=True)
        second = networks["text_encoder_2"](torch.stack([b for _, b in ids]), output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds

    def _tokens(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        if text not in self._ids:
            first, second = (
                torch.tensor(tokenizer(text, padding="max_length", truncation=True).input_ids)
                for tokenizer in self._tokenizers
            )
            self._ids[text] = first, second
        return self._ids[text]


def _without_some(texts: list[str], dice: np.random.Generator) -> tuple[list[str], np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return captions of which some are empty, and the rows that get zeros, like a request without a negative
    prompt."""
    lots = dice.random(len(texts))
    captions = ["" if lot < _NO_TEXT_SHARE else text for text, lot in zip(texts, lots, strict=True)]
    return captions, lots < _NO_TEXT_SHARE / 2
