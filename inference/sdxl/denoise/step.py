"""One denoising step of rows that share nothing but their size.

Every row brings its own timestep, sigma, guidance, prompt and control weight, so one forward of the UNet serves rows at
different steps of different schedules. A guided row takes two slots of the forward, for prompt and negative prompt; an
unguided row takes one. A ControlNet runs only over the slots of rows that give it a picture whose weight is not 0 at
their step; what several ControlNets find for a slot is added up, as diffusers' MultiControlNetModel does. The rows
of economy pictures take part in it at their full calls only; at their shallow calls they share a forward of the
UNet's outermost layers (`darkroom.inference.sdxl.denoise.reuse`).

A step is atomic: rows advance only after everything that can fail has succeeded. On a GPU, `Stepper.take` returns one
step ahead of the GPU, so that the GPU always has its next step queued when it finishes one. An error that appears after
the return is no longer the failure of one step but the end of the GPU's context (`darkroom.inference.sdxl.faults`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import torch

from darkroom.inference.sdxl.denoise.adapters import AdapterBank
from darkroom.inference.sdxl.denoise.compiled import CompiledRegions, StaticShapes
from darkroom.inference.sdxl.denoise.reuse import Kept, ShallowNetwork, gathered
from darkroom.inference.sdxl.denoise.rows import AHEAD, GUIDANCE, RESCALE, Predicted, SdxlRow
from darkroom.inference.sdxl.denoise.schedule import (
    DT,
    INPUT_SIGMA,
    OF_NOISE,
    OF_X,
    OF_X0,
    OF_X0_1,
    OF_X0_2,
    OF_X_1,
    SIGMA,
    SIGMA_UP,
    TIMESTEP,
    X0_OF_P,
    X0_OF_X,
)
from darkroom.inference.sdxl.denoise.slots import (
    ControlledSlots,
    Division,
    ShallowLayout,
    SlotLayout,
    divide,
    lay_out,
    lay_out_shallow,
)
from darkroom.inference.sdxl.streams import LaneStream, Staging

PREDICTIONS: Final = ("epsilon", "v_prediction")


@dataclass(frozen=True, slots=True)
class Networks:
    """The networks that a step runs, and the form in which they run."""

    unet: Any
    controlnets: tuple[Any, ...]
    """By the places that rows' controls name. All have the UNet's shape."""
    adapters: AdapterBank
    """Applies LoRAs to the UNet."""
    prediction: str
    """One of `PREDICTIONS`."""
    device: torch.device
    dtype: torch.dtype
    shapes: StaticShapes = field(default_factory=StaticShapes)
    regions: CompiledRegions | None = None
    """Used for steps of static shape; None if nothing is compiled."""
    shallow: ShallowNetwork | None = None
    """The UNet's outermost layers, for shallow calls; None if they cannot run alone."""


class Stepper:
    """Takes steps, and keeps the layouts and the last step's mark for the next one.

    Belongs to the denoise lane.
    """

    def __init__(self, networks: Networks, stream: LaneStream | None = None) -> None:
        self.networks = networks
        self.stream = stream or LaneStream(networks.device)
        self._staging = Staging(networks.device)
        self._division: Division | None = None
        self._layout: SlotLayout | None = None
        self._shallow_layout: ShallowLayout | None = None
        self._last: torch.cuda.Event | None = None

    def take(self, rows: Sequence[SdxlRow]) -> None:
        """Take one denoising step with all rows, whose latents have the same size. An error leaves every row
        unchanged."""
        with self.stream.entered():
            try:
                stepped, denoised, kept = self._step(rows)
                latents = [row.masked(stepped[place : place + 1]) for place, row in enumerate(rows)]
            except BaseException:
                # Kernels of the failed step that were launched still read the staging buffers and these rows.
                self._forget()
                self.stream.wait()
                raise
        mark = self.stream.mark()
        for place, row in enumerate(rows):
            row.advance(latents[place], denoised[place : place + 1], mark, kept=kept.get(place))
            if row.wants_preview:
                row.predicted = Predicted(row.steps_done, denoised[place : place + 1], mark)
        if self._last is not None:
            self._last.synchronize()
        self._last = mark
        if all(row.steps_done >= row.steps_total for row in rows):
            # No row is left whose next step could be queued, so waiting here charges this step with its own time.
            self._forget()
            self.stream.wait()

    def _step(self, rows: Sequence[SdxlRow]) -> tuple[torch.Tensor, torch.Tensor, dict[int, Kept]]:
        """Return the latents after the step and the denoised pictures x0 in fp32, both (rows, channels, height,
        width), and by place what full calls leave for shallow ones."""
        if self._division is None or not self._division.serves(rows):
            self._division = divide(rows, self.networks.device)
        division = self._division
        latents = torch.cat([row.latents for row in rows])
        numbers = self._staging.send("numbers", _numbers(rows))
        noise = self._staging.send("noise", _fresh_noise(rows)).to(latents.dtype)
        # The schedulers' `scale_model_input`.
        scaled = latents.float() / (_column(numbers, INPUT_SIGMA) ** 2 + 1) ** 0.5
        if not division.shallow:
            guided, kept = self._full(rows, scaled, numbers)
        else:
            guided, kept = self._divided(division, rows, scaled, numbers)
        euler = division.euler
        if euler is False:
            return *_linear_step(latents, numbers, guided, noise, rows), kept
        by_euler = _euler_step(latents, numbers, guided, noise, self.networks.prediction)
        if euler is True:
            return *by_euler, kept
        by_others = _linear_step(latents, numbers, guided, noise, rows)
        stepped, denoised = (torch.where(euler, *pair) for pair in zip(by_euler, by_others, strict=True))
        return stepped, denoised, kept

    def _divided(
        self, division: Division, rows: Sequence[SdxlRow], scaled: torch.Tensor, numbers: torch.Tensor
    ) -> tuple[torch.Tensor, dict[int, Kept]]:
        """Return the guided predictions of a step some of whose calls are shallow, and what its full calls leave."""
        parts, kept = [], {}
        if division.full:
            index = division.full_index
            guided, left = self._full([rows[place] for place in division.full], scaled[index], numbers[index])
            parts.append(guided)
            kept = {division.full[place]: call for place, call in left.items()}
        index = division.shallow_index
        parts.append(self._shallow([rows[place] for place in division.shallow], scaled[index], numbers[index]))
        return torch.cat(parts)[division.back], kept

    def _full(
        self, rows: Sequence[SdxlRow], scaled: torch.Tensor, numbers: torch.Tensor
    ) -> tuple[torch.Tensor, dict[int, Kept]]:
        """Return the guided predictions of full calls in fp32, and by place what they leave for shallow ones.

        `scaled` are the rows' latents at unit variance in fp32.
        """
        layout, networks = self._laid_out(rows), self.networks
        sample = scaled.to(networks.dtype)[layout.slot_rows]
        keeping = [place for place, row in enumerate(rows) if row.keeps_next]
        watching: AbstractContextManager[list[torch.Tensor]] = nullcontext([])
        if keeping and networks.shallow is not None:
            watching = networks.shallow.watching()
        with watching as seen:
            predicted, residuals = _predict(layout, sample, numbers[:, TIMESTEP][layout.slot_rows], networks)
        guided = _guided(predicted, layout.away, _column(numbers, GUIDANCE))
        if layout.rescaled is not None:
            guided = _rescaled(guided, predicted, layout.rescaled, _column(numbers, RESCALE))
        if not keeping or networks.shallow is None:
            return guided, {}
        deltas = predicted[: len(rows)].float() - predicted[layout.away].float()
        reaching = residuals[: networks.shallow.residuals]
        # Copies, because a part of a batch's tensor would hold the whole of it.
        return guided, {
            place: Kept(
                deep=seen[0][place : place + 1].clone(),
                residuals=tuple(one[place : place + 1].clone() for one in reaching if any(rows[place].control_weights)),
                delta=deltas[place : place + 1].clone() if rows[place].is_guided else None,
            )
            for place in keeping
        }

    def _shallow(self, rows: Sequence[SdxlRow], scaled: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return the guided predictions of shallow calls in fp32."""
        networks = self.networks
        if networks.shallow is None:
            raise RuntimeError("these networks cannot take shallow calls: prepare the row as exact")
        if self._shallow_layout is None or not self._shallow_layout.serves(rows):
            self._read(rows)
            self._shallow_layout = lay_out_shallow(rows, networks.device)
        layout = self._shallow_layout
        reused = gathered(
            [row.kept for row in rows if row.kept is not None],
            [row.is_guided for row in rows],
            _column(numbers, AHEAD),
            torch.zeros_like(scaled[:1]),
        )
        with networks.adapters.applied(layout.adapters):
            predicted = networks.shallow(
                scaled.to(networks.dtype), numbers[:, TIMESTEP], layout.added, reused.deep, reused.residuals
            )
        p_prompt = predicted.float()
        p_away = p_prompt - reused.delta
        guided = p_away + _column(numbers, GUIDANCE) * (p_prompt - p_away)
        if layout.rescaled is not None:
            guided = _rescaled(guided, predicted, layout.rescaled, _column(numbers, RESCALE))
        return guided

    def _laid_out(self, rows: Sequence[SdxlRow]) -> SlotLayout:
        if self._layout is None or not self._layout.serves(rows):
            self._read(rows)
            networks = self.networks
            self._layout = lay_out(rows, networks.shapes, networks.device, networks.dtype, networks.controlnets)
        return self._layout

    def _read(self, rows: Sequence[SdxlRow]) -> None:
        for row in rows:
            self.stream.read(row.tensors())

    def _forget(self) -> None:
        self._division = self._layout = self._shallow_layout = None


def _numbers(rows: Sequence[SdxlRow]) -> list[torch.Tensor]:
    """Return by row its numbers at its next call, (1, columns) fp32 on the CPU."""
    return [row.numbers[row.steps_done : row.steps_done + 1] for row in rows]


def _column(numbers: torch.Tensor, column: int) -> torch.Tensor:
    """Return a column as (rows, 1, 1, 1), to be multiplied with latents."""
    return numbers[:, column].view(-1, 1, 1, 1)


def _fresh_noise(rows: Sequence[SdxlRow]) -> list[torch.Tensor]:
    """Return each row's noise, (1, channels, height, width) fp32 on the CPU; zeros if its sampler adds none."""
    drawn = [row.next_noise() for row in rows]
    return [torch.zeros(rows[0].latents.shape) if noise is None else noise for noise in drawn]


def _predict(
    layout: SlotLayout, sample: torch.Tensor, timestep: torch.Tensor, networks: Networks
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Return the UNet's prediction by slot, (slots, channels, height, width) in the model's dtype, and the ControlNets'
    residuals of its skip connections by slot, if any.

    `sample` are the slots' latents scaled to unit variance, in the model's dtype; `timestep` is (slots,) fp32.
    """
    regions = networks.regions
    with nullcontext() if regions is None else regions.entered(is_static=layout.is_static):
        residuals: dict[str, Any] = {}
        found: list[torch.Tensor] | None = None
        for run in layout.controlled:
            found = _added(found, _control_residuals(run, sample, timestep, networks), run, len(sample))
        if found is not None:
            residuals = {
                "down_block_additional_residuals": tuple(found[:-1]),
                "mid_block_additional_residual": found[-1],
            }
        with networks.adapters.applied(layout.adapters):
            predicted: torch.Tensor = networks.unet(
                sample,
                timestep,
                encoder_hidden_states=layout.tokens,
                encoder_attention_mask=layout.mask,
                added_cond_kwargs=layout.added,
                return_dict=False,
                **residuals,
            )[0]
    return predicted, residuals.get("down_block_additional_residuals", ())


def _control_residuals(
    run: ControlledSlots, sample: torch.Tensor, timestep: torch.Tensor, networks: Networks
) -> list[torch.Tensor]:
    """Return the residuals of one run of a ControlNet, by its slots: those of the skip connections, then the middle."""
    down, mid = networks.controlnets[run.controlnet](
        sample[run.index],
        timestep[run.index],
        encoder_hidden_states=run.tokens,
        # The picture's encoder ran in the prepare lane; the ControlNet has the identity in its place.
        controlnet_cond=run.embedding,
        conditioning_scale=run.weights,
        added_cond_kwargs=run.added,
        return_dict=False,
        **({} if run.kinds is None else {"class_labels": run.kinds}),
    )
    return [*down, mid]


def _added(
    total: list[torch.Tensor] | None, residuals: list[torch.Tensor], run: ControlledSlots, slots: int
) -> list[torch.Tensor]:
    """Return the sum of residuals over all slots with those of a further run.

    Slots without a control get zeros, which the UNet adds like any other residual.
    """
    if total is None:
        return [_spread(residual, run, slots) for residual in residuals]
    if run.count == slots:
        return [sum_ + residual for sum_, residual in zip(total, residuals, strict=True)]
    index = run.index[: run.count]
    return [sum_.index_add(0, index, residual[: run.count]) for sum_, residual in zip(total, residuals, strict=True)]


def _spread(residual: torch.Tensor, run: ControlledSlots, slots: int) -> torch.Tensor:
    """Spread a residual of a run's slots over all slots, with zeros elsewhere."""
    if run.count == slots:
        return residual
    everywhere = residual.new_zeros(slots, *residual.shape[1:])
    return everywhere.index_copy_(0, run.index[: run.count], residual[: run.count])


def _guided(predicted: torch.Tensor, away: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Apply classifier-free guidance, p = p_away + scale (p_prompt - p_away), by row in fp32 (Ho and Salimans 2022).

    `predicted` is by slot; `away` (rows,) names the slots of p_away, `scale` is (rows, 1, 1, 1). A row without guidance
    is its own p_away, so its prediction comes through unchanged.
    """
    p_away = predicted[away].float()
    return p_away + scale * (predicted[: len(away)].float() - p_away)


def _rescaled(guided: torch.Tensor, predicted: torch.Tensor, rows: torch.Tensor, rescale: torch.Tensor) -> torch.Tensor:
    """Bring the guided prediction of `rows` (an index) back to the standard deviation of the prompt's prediction.

    p <- r p std(p_prompt) / std(p) + (1 - r) p, as diffusers' `rescale_noise_cfg`. The other rows' values stay.
    """
    p, p_prompt = guided[rows], predicted[rows].float()
    factor = p_prompt.std(dim=(1, 2, 3), keepdim=True) / p.std(dim=(1, 2, 3), keepdim=True)
    share = rescale[rows]
    return guided.index_copy(0, rows, share * (p * factor) + (1 - share) * p)


def _linear_step(
    latents: torch.Tensor, numbers: torch.Tensor, p: torch.Tensor, noise: torch.Tensor, rows: Sequence[SdxlRow]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one call of any sampler in fp32: the new latents in the latents' dtype, and the denoised picture.

    The formula is that of `darkroom.inference.sdxl.denoise.schedule`. A row that keeps no history has zeros for its
    numbers there, and adds nothing.
    """
    x = latents.float()
    denoised = _column(numbers, X0_OF_X) * x + _column(numbers, X0_OF_P) * p
    stepped = _column(numbers, OF_X) * x + _column(numbers, OF_X0) * denoised
    stepped = stepped + _column(numbers, OF_NOISE) * noise.float()
    for column, back in ((OF_X0_1, 0), (OF_X0_2, 1)):
        kept = [row.history.denoised[back] if len(row.history.denoised) > back else None for row in rows]
        if any(one is not None for one in kept):
            stepped = stepped + _column(numbers, column) * _stacked(kept, x)
    if any(row.history.latents is not None for row in rows):
        stepped = stepped + _column(numbers, OF_X_1) * _stacked([row.history.latents for row in rows], x)
    return stepped.to(latents.dtype), denoised


def _stacked(parts: Sequence[torch.Tensor | None], like: torch.Tensor) -> torch.Tensor:
    nothing = torch.zeros_like(like[:1])
    return torch.cat([nothing if part is None else part for part in parts])


def _euler_step(
    latents: torch.Tensor, numbers: torch.Tensor, p: torch.Tensor, noise: torch.Tensor, prediction: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take Euler's step in fp32. Return the new latents in the latents' dtype, and the denoised picture.

    `latents`, the guided prediction `p` and `noise` are (rows, channels, height, width), `numbers` is
    (rows, columns).

    The denoised picture is x0 = x - sigma p for epsilon prediction and x0 = -p sigma / sqrt(sigma^2 + 1) +
    x / (sigma^2 + 1) for v prediction; then x + (x - x0) / sigma * dt + sigma_up * noise. The formulas are those of
    diffusers' EulerDiscreteScheduler and EulerAncestralDiscreteScheduler, in their order of operations.
    """
    x, sigma = latents.float(), _column(numbers, SIGMA)
    if prediction == "v_prediction":
        denoised = p * (-sigma / (sigma**2 + 1) ** 0.5) + x / (sigma**2 + 1)
    else:
        denoised = x - sigma * p
    derivative = (x - denoised) / sigma
    stepped = x + derivative * _column(numbers, DT) + noise.float() * _column(numbers, SIGMA_UP)
    return stepped.to(latents.dtype), denoised
