"""One denoising step of rows that share nothing but their size.

Every row brings its own timestep, sigma, guidance, prompt and control weight, so one forward of the UNet serves
rows at different steps of different schedules. A guided row takes two slots of it, prompt and negative prompt; the
others take one. The ControlNet runs only over the slots of rows whose weight is not 0 at their step.

A step is atomic: rows are advanced after everything that can fail has succeeded. On a GPU a step returns before the
GPU has done it: the GPU is one step behind, so that it has its next step at hand the moment it is done with one. What
may still fail by then is no longer one step's failure but the end of the GPU's context
(`darkroom.inference.sdxl.faults`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from darkroom.inference.sdxl.denoise.adapters import AdapterBank
from darkroom.inference.sdxl.denoise.compiled import CompiledRegions, StaticShapes
from darkroom.inference.sdxl.denoise.rows import Predicted, SdxlRow
from darkroom.inference.sdxl.denoise.schedule import DT, SIGMA, SIGMA_UP, TIMESTEP
from darkroom.inference.sdxl.denoise.slots import PosedSlots, SlotLayout, lay_out
from darkroom.inference.sdxl.streams import LaneStream, Staging

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
    shapes: StaticShapes = field(default_factory=StaticShapes)
    regions: CompiledRegions | None = None
    """Used for steps of static shape; None where nothing is compiled."""


class Stepper:
    """Takes steps, and keeps between them what the next one can use: the layout, and the mark behind the last one.

    Belongs to the denoise lane.
    """

    def __init__(self, networks: Networks, stream: LaneStream | None = None) -> None:
        self.networks = networks
        self.stream = stream or LaneStream(networks.device)
        self._staging = Staging(networks.device)
        self._layout: SlotLayout | None = None
        self._last: torch.cuda.Event | None = None

    def take(self, rows: Sequence[SdxlRow]) -> None:
        """One denoising step of all rows, which have latents of one size. On an error no row has changed."""
        with self.stream.entered():
            try:
                stepped, denoised = self._step(rows)
            except BaseException:
                # What was launched of the failed step still reads the staging buffers and these rows.
                self._layout = None
                self.stream.wait()
                raise
        mark = self.stream.mark()
        for place, row in enumerate(rows):
            row.advance(stepped[place : place + 1], mark)
            if row.wants_preview:
                row.predicted = Predicted(row.steps_done, denoised[place : place + 1], mark)
        if self._last is not None:
            self._last.synchronize()
        self._last = mark
        if all(row.steps_done >= row.steps_total for row in rows):
            # Nobody is left whose next step could be at hand, so the time of this one is the step's own.
            self._layout = None
            self.stream.wait()

    def _step(self, rows: Sequence[SdxlRow]) -> tuple[torch.Tensor, torch.Tensor]:
        """By row, (rows, channels, height, width): the latents after the step, and the denoised picture x0 in fp32."""
        layout = self._laid_out(rows)
        latents = torch.cat([row.latents for row in rows])
        numbers = self._staging.send("numbers", _numbers(rows))
        noise = self._staging.send("noise", _fresh_noise(rows)).to(latents.dtype)
        # The schedulers' `scale_model_input`.
        scaled = latents.float() / (_column(numbers, SIGMA) ** 2 + 1) ** 0.5
        sample = scaled.to(self.networks.dtype)[layout.slot_rows]
        predicted = _predict(layout, sample, numbers[:, TIMESTEP][layout.slot_rows], self.networks)
        guided = _guided(predicted, layout.away, _column(numbers, _GUIDANCE))
        return _euler_step(latents, numbers, guided, noise, self.networks.prediction)

    def _laid_out(self, rows: Sequence[SdxlRow]) -> SlotLayout:
        if self._layout is None or not self._layout.serves(rows):
            for row in rows:
                self.stream.read(row.tensors())
            networks = self.networks
            self._layout = lay_out(rows, networks.shapes, networks.device, networks.dtype)
        return self._layout


def _numbers(rows: Sequence[SdxlRow]) -> list[torch.Tensor]:
    """By row (1, 5) fp32 on the CPU: the schedule's columns at the row's step, then its guidance scale."""
    return [row.numbers[row.steps_done : row.steps_done + 1] for row in rows]


def _column(numbers: torch.Tensor, column: int) -> torch.Tensor:
    """(rows, 1, 1, 1), to be multiplied with latents."""
    return numbers[:, column].view(-1, 1, 1, 1)


def _fresh_noise(rows: Sequence[SdxlRow]) -> list[torch.Tensor]:
    """By row (1, channels, height, width) fp32 on the CPU: its own noise, zeros where its sampler adds none."""
    drawn = [row.next_noise() for row in rows]
    return [torch.zeros(rows[0].latents.shape) if noise is None else noise for noise in drawn]


def _predict(layout: SlotLayout, sample: torch.Tensor, timestep: torch.Tensor, networks: Networks) -> torch.Tensor:
    """The UNet's prediction by slot: (slots, channels, height, width) in the model's dtype.

    `sample` are the slots' latents scaled to unit variance, in the model's dtype; `timestep` is (slots,) fp32.
    """
    regions = networks.regions
    with nullcontext() if regions is None else regions.entered(is_static=layout.is_static):
        residuals: dict[str, Any] = {}
        if layout.posed is not None and networks.controlnet is not None:
            residuals = _control_residuals(layout.posed, sample, timestep, networks.controlnet)
        with networks.adapters.applied(layout.adapters):
            predicted: torch.Tensor = networks.unet(
                sample,
                timestep,
                encoder_hidden_states=layout.tokens,
                added_cond_kwargs=layout.added,
                return_dict=False,
                **residuals,
            )[0]
    return predicted


def _control_residuals(
    posed: PosedSlots, sample: torch.Tensor, timestep: torch.Tensor, controlnet: Any
) -> dict[str, Any]:
    """What the ControlNet adds to the UNet, as the UNet's arguments.

    Slots without a pose get zeros, which the UNet adds like any other residual.
    """
    down, mid = controlnet(
        sample[posed.index],
        timestep[posed.index],
        encoder_hidden_states=posed.tokens,
        # The picture's own encoder ran in the prepare lane; here the identity stands for it.
        controlnet_cond=posed.embedding,
        conditioning_scale=posed.weights,
        added_cond_kwargs=posed.added,
        return_dict=False,
    )
    return {
        "down_block_additional_residuals": tuple(_spread(residual, posed, len(sample)) for residual in down),
        "mid_block_additional_residual": _spread(mid, posed, len(sample)),
    }


def _spread(residual: torch.Tensor, posed: PosedSlots, slots: int) -> torch.Tensor:
    """A residual of the posed slots over all slots."""
    if posed.count == slots:
        return residual
    everywhere = residual.new_zeros(slots, *residual.shape[1:])
    return everywhere.index_copy_(0, posed.index[: posed.count], residual[: posed.count])


def _guided(predicted: torch.Tensor, away: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance, p = p_away + scale (p_prompt - p_away), by row in fp32.

    `predicted` is by slot; `away` (rows,) names the slots of p_away, `scale` is (rows, 1, 1, 1). A row without guidance
    is its own p_away, so its prediction comes through unchanged.
    """
    p_away = predicted[away].float()
    return p_away + scale * (predicted[: len(away)].float() - p_away)


def _euler_step(
    latents: torch.Tensor, numbers: torch.Tensor, p: torch.Tensor, noise: torch.Tensor, prediction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Euler's step in fp32: the new latents in the latents' dtype, and the denoised picture.

    `latents`, the guided prediction `p` and `noise` are (rows, channels, height, width), `numbers` is (rows, 5).

    The denoised picture is x0 = x - sigma p for epsilon prediction and x0 = -p sigma / sqrt(sigma^2 + 1) +
    x / (sigma^2 + 1) for v prediction; then x <- x + (x - x0) / sigma * dt + sigma_up * noise. The formulas are those
    of diffusers' EulerDiscreteScheduler and EulerAncestralDiscreteScheduler, in their order of operations.
    """
    x = latents.float()
    sigma = _column(numbers, SIGMA)
    if prediction == "v_prediction":
        denoised = p * (-sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1)
    else:
        denoised = x - sigma * p
    derivative = (x - denoised) / sigma
    stepped = x + derivative * _column(numbers, DT) + noise.float() * _column(numbers, SIGMA_UP)
    return stepped.to(latents.dtype), denoised
