"""One unfinished image: everything that a row does not share with its neighbours.

Only two methods change a row: `next_noise` draws from its generator, and `advance` takes the step. Noise that was drawn
for a failed step stays in the row and serves the next attempt, so a failure cannot shift the generator's stream and
with it the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Final, NamedTuple

import torch
from PIL import Image

from darkroom.inference.sdxl.denoise.adapters import AppliedAdapter
from darkroom.inference.sdxl.denoise.reuse import Kept, ReusePlan
from darkroom.inference.sdxl.denoise.schedule import COLUMNS, Schedule
from darkroom.inference.sdxl.prepare.conditions import TextEmbedding
from darkroom.inference.types import BatchKey, RenderRequest, RowId

GUIDANCE, RESCALE, AHEAD = range(COLUMNS, COLUMNS + 3)
"""Columns of `SdxlRow.numbers` after the schedule's own: guidance, then what `ReusePlan` extrapolates."""
_SERIALS: Final[Iterator[int]] = count()


@dataclass(frozen=True, slots=True)
class Control:
    """A control picture with the strength and the window in which one request applies it."""

    embedding: torch.Tensor
    """(1, channels, latent height, latent width): the control picture after the ControlNet's own small encoder."""
    scale: float
    start: float
    end: float
    controlnet: int = 0
    """The place of the ControlNet that follows it, among the loaded ones."""
    task: int | None = None
    """Its kind's control type, for a union ControlNet."""

    def weight(self, step: int, steps: int) -> float:
        """Return the ControlNet's weight at `step` of `steps`: the scale inside the window, 0 outside.

        Step k of N covers [k / N, (k + 1) / N] and is inside if the whole of it lies in [start, end], as in diffusers'
        ControlNet pipelines.
        """
        return self.scale if self.start <= step / steps and (step + 1) / steps <= self.end else 0.0


@dataclass(frozen=True, slots=True)
class Guidance:
    """Classifier-free guidance as one request wants it applied."""

    scale: float
    start: float = 0.0
    end: float = 1.0
    rescale: float = 0.0
    """How far the guided prediction is brought back to the prompt's standard deviation: 0 not at all, 1 wholly (Lin et
    al. 2023, section 3.4; diffusers' `guidance_rescale`)."""

    def is_on(self, call: int, calls: int) -> bool:
        """Return True where `call` of `calls` is guided: it lies in [start, end], as for `Control.weight`."""
        return self.start <= call / calls and (call + 1) / calls <= self.end


class History(NamedTuple):
    """Values of the calls before, for samplers that look back. fp32, (1, channels, latent height, width)."""

    denoised: tuple[torch.Tensor, ...] = ()
    """x0 of the call before, then of the one before that."""
    latents: torch.Tensor | None = None
    """x of the call before."""


class Predicted(NamedTuple):
    """The picture that a step predicts."""

    steps_done: int
    latents: torch.Tensor
    """(1, channels, latent height, latent width) fp32: x0."""
    ready: torch.cuda.Event | None
    """Same meaning as `SdxlRow.ready`."""


class Overlay(NamedTuple):
    """A picture whose pixels are put back where a mask is black."""

    original: Image.Image
    """RGB, of the output's size."""
    mask: Image.Image
    """8-bit levels: 255 is wholly painted, 0 wholly the original."""

    def over(self, painted: Image.Image) -> Image.Image:
        """Return the painted picture with the original's pixels outside of the mask."""
        return Image.composite(painted, self.original, self.mask)


class Inpaint(NamedTuple):
    """Latents that a row puts back outside of its mask after each call, as diffusers' inpaint pipelines do.

    (1, channels or 1, latent height, latent width) in the model's dtype, on its device.
    """

    mask: torch.Tensor
    """1 where latents are painted."""
    known: torch.Tensor
    """The latents of the picture to start from."""
    noise: torch.Tensor
    """The row's first noise."""
    overlay: Overlay | None

    def blended(self, latents: torch.Tensor, noising: tuple[float, float]) -> torch.Tensor:
        """Return the latents after a call with those outside of the mask put back, noised for the next call."""
        of_picture, of_noise = noising
        return (1 - self.mask) * (of_picture * self.known + of_noise * self.noise) + self.mask * latents


@dataclass(slots=True, eq=False)
class SdxlRow:
    """Implements `darkroom.inference.contract.Row`."""

    row_id: RowId
    batch_key: BatchKey
    request: RenderRequest
    seed: int
    schedule: Schedule
    text: TextEmbedding
    negative: TextEmbedding | None
    """None where guidance is off throughout: the row then takes one slot of the UNet instead of two."""
    time_ids: torch.Tensor
    controls: tuple[Control, ...]
    """The pose's and the others; their effects are added up in this order."""
    guidance: Guidance
    generator: torch.Generator
    """On the CPU for every device, because a generator's stream depends on its device."""
    latents: torch.Tensor
    """(1, channels, latent height, latent width) in the model's dtype, on its device."""
    adapters: tuple[AppliedAdapter, ...] = ()
    inpaint: Inpaint | None = field(default=None, repr=False)
    """None for a row without a mask."""
    reuse: ReusePlan | None = field(default=None, repr=False)
    """None for an exact picture, of which every call is full."""
    kept: Kept | None = field(default=None, repr=False)
    """What shallow calls reuse; None before the first call, and once no further call reuses it."""
    history: History = field(default_factory=History, repr=False)
    steps_done: int = 0
    ready: torch.cuda.Event | None = None
    """Reached once a GPU has finished the row's last step; None on a CPU and before the first step."""
    wants_preview: bool = False
    """True if each step is to store its prediction in `predicted`."""
    predicted: Predicted | None = field(default=None, repr=False)
    """Replaced as a whole and never changed, so that another lane may read it during a step."""
    numbers: torch.Tensor = field(init=False, repr=False)
    """(calls, COLUMNS + 3) fp32 on the CPU: the schedule's columns, then those from `GUIDANCE` on."""
    serial: int = field(default_factory=lambda: next(_SERIALS), init=False, repr=False)
    """Tells rows apart without holding on to them: no other row of this process has it."""
    _noise: torch.Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        calls, reuse = self.schedule.calls, self.reuse
        guidance = torch.tensor([[self.guidance.scale, self.guidance.rescale]], dtype=torch.float32)
        ahead = torch.zeros(calls, 1) if reuse is None else torch.tensor([reuse.ahead]).T
        self.numbers = torch.cat([self.schedule.table, guidance.expand(calls, 2), ahead], dim=1)

    @property
    def steps_total(self) -> int:
        """Return the number of UNet calls that the row needs."""
        return self.schedule.calls

    @property
    def control_weights(self) -> tuple[float, ...]:
        """The weight of each control at the next step."""
        return tuple(control.weight(self.steps_done, self.steps_total) for control in self.controls)

    @property
    def is_guided(self) -> bool:
        """Return True where the next call needs a slot for the negative prompt, too."""
        return self.negative is not None and self.guidance.is_on(self.steps_done, self.steps_total)

    @property
    def next_is_full(self) -> bool:
        """Return True where the next call runs the whole networks."""
        return self.reuse is None or self.steps_done >= self.steps_total or self.reuse.full[self.steps_done]

    @property
    def full_steps(self) -> int:
        """Calls so far that ran the whole networks."""
        return self.steps_done if self.reuse is None else sum(self.reuse.full[: self.steps_done])

    @property
    def keeps_next(self) -> bool:
        """Return True where a later call reuses what the next one computes."""
        return self.reuse is not None and self.next_is_full and self.reuse.keeps(self.steps_done)

    def next_noise(self) -> torch.Tensor | None:
        """Return the fresh noise of the next call, fp32 on the CPU, of the latents' shape; None where it adds none.

        Drawn once a call, however often the call is tried.
        """
        if self.schedule.draws[self.steps_done] and self._noise is None:
            self._noise = draw_noise(self.generator, self.latents.shape)
        return self._noise

    def tensors(self) -> list[torch.Tensor]:
        """Return the tensors on the device that a step reads from the row."""
        texts = [self.text] if self.negative is None else [self.text, self.negative]
        tensors = [self.latents, self.time_ids, *(part for text in texts for part in (text.tokens, text.pooled))]
        tensors += [control.embedding for control in self.controls]
        if self.inpaint is not None:
            tensors += [self.inpaint.mask, self.inpaint.known, self.inpaint.noise]
        return tensors + [tensor for adapter in self.adapters for tensor in adapter.lora.tensors()]

    def masked(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the latents that the next call gave, with those outside of the row's mask put back."""
        if self.inpaint is None:
            return latents
        return self.inpaint.blended(latents, self.schedule.noising(self.steps_done + 1))

    def advance(
        self,
        latents: torch.Tensor,
        denoised: torch.Tensor | None = None,
        ready: torch.cuda.Event | None = None,
        kept: Kept | None = None,
    ) -> None:
        """Take the step: new latents, which a GPU has worked out once `ready` is reached; the noise used up.

        `denoised` is the call's x0 in fp32, kept where the sampler looks back. `kept` is what a full call leaves to
        shallow ones.
        """
        schedule, reuse = self.schedule, self.reuse
        if denoised is not None and (schedule.keeps or schedule.keeps_x):
            self.history = History(
                (denoised, *self.history.denoised)[: schedule.keeps], self.latents.float() if schedule.keeps_x else None
            )
        self.latents = latents
        self.ready = ready
        self.steps_done += 1
        self._noise = None
        if kept is not None:
            self.kept = kept if self.kept is None else kept._replace(delta_before=self.kept.delta)
        elif reuse is None or not reuse.keeps(self.steps_done - 1):
            self.kept = None


def draw_noise(generator: torch.Generator, shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
    """Draw standard normal noise of `shape` in fp32 on the CPU: fp16 noise is the same noise, rounded."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
