"""One denoising step of rows that share nothing but their size.

Every row brings its own timestep, sigma, guidance, prompt and control weight, so one forward of the UNet serves
rows at different steps of different schedules. A guided row takes two slots of it, prompt and negative prompt; the
others take one. The ControlNet runs only over the slots of rows whose weight is not 0 at their step.

A step is atomic: rows are advanced after everything that can fail has succeeded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from inference.sdxl.adapters import AdapterBank
from inference.sdxl.rows import SdxlRow
from inference.sdxl.schedule import DT, SIGMA, SIGMA_UP, TIMESTEP

PREDICTIONS: Final = ("epsilon", "v_prediction")
_GUIDANCE: Final = SIGMA_UP + 1


@dataclass(frozen=True, slots=True)
class Networks:
    """What a step runs."""

    unet: Any
    controlnet: Any | None
    adapters: AdapterBank
    """Of the UNet."""
    prediction: str
    """One of `PREDICTIONS`."""
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class _Batch:
    """The rows of one step, laid out for the networks. Slots are first every row's prompt, then the guided rows'
    negative prompts.
    """

    rows: Sequence[SdxlRow]
    latents: torch.Tensor
    """By row: (rows, channels, height, width) in the model's dtype."""
    numbers: torch.Tensor
    """By row: (rows, 5) fp32, the schedule's columns at the row's step, then its guidance scale."""
    away: torch.Tensor
    """By row: the slot that guidance leads away from. A row without guidance names its own."""
    slot_rows: Sequence[SdxlRow]
    """By slot: the row that it serves."""
    sample: torch.Tensor
    """By slot: (slots, channels, height, width), the latents scaled to unit variance, in the model's dtype."""
    timestep: torch.Tensor
    """By slot: (slots,) fp32."""
    tokens: torch.Tensor
    """By slot: (slots, 77, width)."""
    added: dict[str, torch.Tensor]
    """By slot: `text_embeds` (slots, width) and `time_ids` (slots, 6)."""


def take_step(rows: Sequence[SdxlRow], networks: Networks) -> None:
    """One denoising step of all rows, which have latents of one size. On an error no row has changed."""
    batch = _lay_out(rows, networks)
    predicted = _predict(batch, networks)
    stepped = _euler_step(batch, predicted, _fresh_noise(batch), networks.prediction)
    if networks.device.type == "cuda":
        # Kernels report their errors late. Here is the last place where a failed step can still leave its rows alone.
        torch.cuda.current_stream(networks.device).synchronize()
    for place, row in enumerate(rows):
        row.advance(stepped[place : place + 1])


def _lay_out(rows: Sequence[SdxlRow], networks: Networks) -> _Batch:
    guided = [place for place, row in enumerate(rows) if row.negative is not None]
    slots = [*range(len(rows)), *guided]
    away = list(range(len(rows)))
    for slot, place in enumerate(guided, start=len(rows)):
        away[place] = slot
    texts = [*(row.text for row in rows), *(row.negative for row in rows if row.negative is not None)]
    slot_rows = [rows[place] for place in slots]
    index = torch.tensor(slots, device=networks.device)
    latents = torch.cat([row.latents for row in rows])
    numbers = _numbers(rows).to(networks.device)
    # The schedulers' `scale_model_input`.
    scaled = latents.float() / (_column(numbers, SIGMA) ** 2 + 1) ** 0.5
    return _Batch(
        rows=rows,
        latents=latents,
        numbers=numbers,
        away=torch.tensor(away, device=networks.device),
        slot_rows=slot_rows,
        sample=scaled.to(networks.dtype)[index],
        timestep=numbers[:, TIMESTEP][index],
        tokens=torch.cat([text.tokens for text in texts]),
        added={
            "text_embeds": torch.cat([text.pooled for text in texts]),
            "time_ids": torch.cat([row.time_ids for row in slot_rows]),
        },
    )


def _numbers(rows: Sequence[SdxlRow]) -> torch.Tensor:
    columns = torch.stack([row.schedule.table[row.steps_done] for row in rows])
    guidance = torch.tensor([[row.request.guidance_scale] for row in rows], dtype=torch.float32)
    return torch.cat([columns, guidance], dim=1)


def _column(numbers: torch.Tensor, column: int) -> torch.Tensor:
    """(rows, 1, 1, 1), to be multiplied with latents."""
    return numbers[:, column].view(-1, 1, 1, 1)


def _predict(batch: _Batch, networks: Networks) -> torch.Tensor:
    """The UNet's prediction by slot: (slots, channels, height, width) in the model's dtype."""
    residuals = _control_residuals(batch, networks)
    with networks.adapters.applied([row.adapter for row in batch.slot_rows]):
        predicted: torch.Tensor = networks.unet(
            batch.sample,
            batch.timestep,
            encoder_hidden_states=batch.tokens,
            added_cond_kwargs=batch.added,
            return_dict=False,
            **residuals,
        )[0]
    return predicted


def _control_residuals(batch: _Batch, networks: Networks) -> dict[str, Any]:
    """What the ControlNet adds to the UNet, as the UNet's arguments; empty where no row has a pose at its step.

    Slots without a pose get zeros, which the UNet adds like any other residual.
    """
    posed = [
        (slot, row.control.embedding, row.control_weight)
        for slot, row in enumerate(batch.slot_rows)
        if row.control is not None and row.control_weight != 0.0
    ]
    if not posed or networks.controlnet is None:
        return {}
    index = torch.tensor([slot for slot, _, _ in posed], device=networks.device)
    weights = torch.tensor([weight for _, _, weight in posed], device=networks.device, dtype=networks.dtype)
    down, mid = networks.controlnet(
        batch.sample[index],
        batch.timestep[index],
        encoder_hidden_states=batch.tokens[index],
        # The picture's own encoder ran in the prepare lane; here the identity stands for it.
        controlnet_cond=torch.cat([embedding for _, embedding, _ in posed]),
        conditioning_scale=weights.view(-1, 1, 1, 1),
        added_cond_kwargs={name: values[index] for name, values in batch.added.items()},
        return_dict=False,
    )
    slots = len(batch.slot_rows)
    return {
        "down_block_additional_residuals": tuple(_spread(residual, index, slots) for residual in down),
        "mid_block_additional_residual": _spread(mid, index, slots),
    }


def _spread(residual: torch.Tensor, index: torch.Tensor, slots: int) -> torch.Tensor:
    if len(index) == slots:
        return residual
    return residual.new_zeros(slots, *residual.shape[1:]).index_copy_(0, index, residual)


def _fresh_noise(batch: _Batch) -> torch.Tensor:
    """Each row's own noise, zeros where its sampler adds none; rounded to the model's dtype as diffusers draws it."""
    silence = torch.zeros(1, *batch.latents.shape[1:], dtype=torch.float32)
    drawn = [row.next_noise() for row in batch.rows]
    noise = torch.cat([silence if its_noise is None else its_noise for its_noise in drawn])
    return noise.to(batch.latents.device, batch.latents.dtype)


def _euler_step(batch: _Batch, predicted: torch.Tensor, noise: torch.Tensor, prediction: str) -> torch.Tensor:
    """Guidance, then Euler's step, in fp32; the result in the latents' dtype.

    With p = p_away + guidance (p_prompt - p_away), the denoised picture is x0 = x - sigma p for epsilon prediction and
    x0 = -p sigma / sqrt(sigma^2 + 1) + x / (sigma^2 + 1) for v prediction; then
    x <- x + (x - x0) / sigma * dt + sigma_up * noise. The formulas are those of diffusers' EulerDiscreteScheduler and
    EulerAncestralDiscreteScheduler, in their order of operations. A row without guidance is its own p_away, so its
    prediction comes through unchanged.
    """
    x = batch.latents.float()
    away = predicted[batch.away].float()
    p = away + _column(batch.numbers, _GUIDANCE) * (predicted[: len(batch.rows)].float() - away)
    sigma = _column(batch.numbers, SIGMA)
    if prediction == "v_prediction":
        denoised = p * (-sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1)
    else:
        denoised = x - sigma * p
    derivative = (x - denoised) / sigma
    stepped = x + derivative * _column(batch.numbers, DT) + noise.float() * _column(batch.numbers, SIGMA_UP)
    return stepped.to(batch.latents.dtype)
