"""One denoising step of rows that share nothing but their size.

Every row brings its own timestep, sigma, guidance, prompt and control weight, so one forward of the UNet serves
rows at different steps of different schedules. A guided row takes two slots of it, prompt and negative prompt; the others
take one. The ControlNet runs only over the slots of rows whose weight is not 0 at their step.

A step is atomic: rows are advanced after everything that can fail has succeeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from inference.sdxl.conditions import TextEmbedding
from inference.sdxl.rows import SdxlRow
from inference.sdxl.schedule import DT, SIGMA, SIGMA_UP, TIMESTEP

PREDICTIONS: Final = ("epsilon", "v_prediction")
_GUIDANCE: Final = SIGMA_UP + 1


@dataclass(frozen=True, slots=True)
class Networks:
    """What a step runs."""

    unet: Any
    controlnet: Any | None
    prediction: str
    """One of `PREDICTIONS`."""
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Slots:
    """Which row each slot of the UNet serves: first every row's prompt, then the guided rows' negative prompts."""

    rows: list[int]
    """By slot: the row's place in the batch."""
    away: list[int]
    """By row: the slot that guidance leads away from. A row without guidance names its own."""


def take_step(rows: Sequence[SdxlRow], networks: Networks) -> None:
    """One denoising step of all rows, which have latents of one size. On an error no row has changed."""
    slots = _assign_slots(rows)
    numbers = _numbers(rows).to(networks.device)
    latents = torch.cat([row.latents for row in rows])
    predicted = _predict(rows, slots, latents, numbers, networks)
    noise = _noise(rows, latents)
    stepped = _euler_step(latents, predicted, noise, numbers, slots.away, networks.prediction)
    if networks.device.type == "cuda":
        # Kernels report their errors late. Here is the last place where a failed step can still leave its rows alone.
        torch.cuda.current_stream(networks.device).synchronize()
    for row, its_latents in zip(rows, stepped.split(1), strict=True):
        row.advance(its_latents)


def _assign_slots(rows: Sequence[SdxlRow]) -> _Slots:
    guided = [index for index, row in enumerate(rows) if row.negative is not None]
    away = list(range(len(rows)))
    for place, index in enumerate(guided):
        away[index] = len(rows) + place
    return _Slots(rows=[*range(len(rows)), *guided], away=away)


def _numbers(rows: Sequence[SdxlRow]) -> torch.Tensor:
    """(rows, 5) fp32 on the CPU: the schedule's columns at each row's step, then its guidance scale."""
    columns = torch.stack([row.schedule.table[row.steps_done] for row in rows])
    guidance = torch.tensor([[row.request.guidance_scale] for row in rows], dtype=torch.float32)
    return torch.cat([columns, guidance], dim=1)


def _column(numbers: torch.Tensor, column: int) -> torch.Tensor:
    """(rows, 1, 1, 1), to be multiplied with latents."""
    return numbers[:, column].view(-1, 1, 1, 1)


def _predict(
    rows: Sequence[SdxlRow], slots: _Slots, latents: torch.Tensor, numbers: torch.Tensor, networks: Networks
) -> torch.Tensor:
    """The UNet's prediction by slot: (slots, channels, height, width) in the model's dtype."""
    index = torch.tensor(slots.rows, device=networks.device)
    scaled = latents.float() / (_column(numbers, SIGMA) ** 2 + 1) ** 0.5
    sample = scaled.to(networks.dtype)[index]
    timestep = numbers[:, TIMESTEP][index]
    texts = [_text(rows[row], slot < len(rows)) for slot, row in enumerate(slots.rows)]
    tokens = torch.cat([text.tokens for text in texts])
    added = {
        "text_embeds": torch.cat([text.pooled for text in texts]),
        "time_ids": torch.cat([rows[row].time_ids for row in slots.rows]),
    }
    residuals = _control_residuals(rows, slots, sample, timestep, tokens, added, networks)
    predicted: torch.Tensor = networks.unet(
        sample, timestep, encoder_hidden_states=tokens, added_cond_kwargs=added, return_dict=False, **residuals
    )[0]
    return predicted


def _text(row: SdxlRow, is_prompt: bool) -> TextEmbedding:
    if is_prompt:
        return row.text
    assert row.negative is not None  # only guided rows have a second slot
    return row.negative


def _control_residuals(
    rows: Sequence[SdxlRow],
    slots: _Slots,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    tokens: torch.Tensor,
    added: dict[str, torch.Tensor],
    networks: Networks,
) -> dict[str, Any]:
    """What the ControlNet adds to the UNet, as the UNet's arguments; empty where no row has a pose at its step.

    Slots without a pose get zeros, which the UNet adds like any other residual.
    """
    posed = [(slot, rows[row]) for slot, row in enumerate(slots.rows) if rows[row].control_weight != 0.0]
    if not posed or networks.controlnet is None:
        return {}
    index = torch.tensor([slot for slot, _ in posed], device=networks.device)
    weights = torch.tensor([row.control_weight for _, row in posed], device=networks.device, dtype=networks.dtype)
    down, mid = networks.controlnet(
        sample[index],
        timestep[index],
        encoder_hidden_states=tokens[index],
        # The ControlNet's own encoder of the picture was run by the prepare lane and replaced by the identity.
        controlnet_cond=torch.cat([row.control.embedding for _, row in posed if row.control is not None]),
        conditioning_scale=weights.view(-1, 1, 1, 1),
        added_cond_kwargs={name: values[index] for name, values in added.items()},
        return_dict=False,
    )
    every_slot = len(slots.rows)
    return {
        "down_block_additional_residuals": tuple(_spread(residual, index, every_slot) for residual in down),
        "mid_block_additional_residual": _spread(mid, index, every_slot),
    }


def _spread(residual: torch.Tensor, index: torch.Tensor, every_slot: int) -> torch.Tensor:
    if len(index) == every_slot:
        return residual
    return residual.new_zeros(every_slot, *residual.shape[1:]).index_copy_(0, index, residual)


def _noise(rows: Sequence[SdxlRow], latents: torch.Tensor) -> torch.Tensor:
    """Each row's own noise, zeros where its sampler adds none; rounded to the model's dtype as diffusers draws it."""
    silence = torch.zeros(latents.shape[1:], dtype=torch.float32)[None]
    drawn = [row.next_noise() for row in rows]
    return torch.cat([silence if noise is None else noise for noise in drawn]).to(latents.device, latents.dtype)


def _euler_step(
    latents: torch.Tensor,
    predicted: torch.Tensor,
    noise: torch.Tensor,
    numbers: torch.Tensor,
    away: list[int],
    prediction: str,
) -> torch.Tensor:
    """Guidance, then Euler's step, in fp32; the result in the latents' dtype.

    With p = p_away + guidance (p_prompt - p_away), the denoised picture is x0 = x - sigma p for epsilon prediction and
    x0 = -p sigma / sqrt(sigma^2 + 1) + x / (sigma^2 + 1) for v prediction; then
    x <- x + (x - x0) / sigma * dt + sigma_up * noise. The formulas are those of diffusers' EulerDiscreteScheduler and
    EulerAncestralDiscreteScheduler, in their order of operations. A row without guidance is its own p_away,
    so its prediction comes through unchanged.
    """
    x = latents.float()
    towards = predicted[: len(latents)].float()
    from_ = predicted[torch.tensor(away, device=predicted.device)].float()
    p = from_ + _column(numbers, _GUIDANCE) * (towards - from_)
    sigma = _column(numbers, SIGMA)
    if prediction == "v_prediction":
        denoised = p * (-sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1)
    else:
        denoised = x - sigma * p
    derivative = (x - denoised) / sigma
    stepped = x + derivative * _column(numbers, DT) + noise.float() * _column(numbers, SIGMA_UP)
    return stepped.to(latents.dtype)
