"""One image in the making: everything a row carries that its neighbours do not share.

A row is changed in two places only: `next_noise` draws from its generator, and `advance` takes the step. Noise that
was drawn for a step that failed stays in the row and serves the step's next try, so a failure cannot shift the
generator's stream and with it the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from darkroom.inference.sdxl.denoise.adapters import AppliedAdapter
from darkroom.inference.sdxl.denoise.schedule import Schedule
from darkroom.inference.sdxl.prepare.conditions import TextEmbedding
from darkroom.inference.types import BatchKey, RenderRequest, RowId


@dataclass(frozen=True, slots=True)
class Control:
    """A pose as one request wants it applied."""

    embedding: torch.Tensor
    """(1, channels, latent height, latent width): the control picture behind the ControlNet's own small encoder."""
    scale: float
    start: float
    end: float

    def weight(self, step: int, steps: int) -> float:
        """The ControlNet's weight at `step` of `steps`: the scale inside of the window, 0 outside.

        A step is inside where it lies in [start, end] as a whole, step k of N covering [k / N, (k + 1) / N].
        """
        return self.scale if self.start <= step / steps and (step + 1) / steps <= self.end else 0.0


class Predicted(NamedTuple):
    """What a step predicts the picture to be."""

    steps_done: int
    latents: torch.Tensor
    """(1, channels, latent height, latent width) fp32: x0."""
    ready: torch.cuda.Event | None
    """As `SdxlRow.ready`."""


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
    """None where guidance is off: the row then takes one slot of the UNet instead of two."""
    time_ids: torch.Tensor
    control: Control | None
    generator: torch.Generator
    """On the CPU whatever the device is, because a generator's stream depends on its device."""
    latents: torch.Tensor
    """(1, channels, latent height, latent width) in the model's dtype, on its device."""
    adapter: AppliedAdapter | None = None
    steps_done: int = 0
    ready: torch.cuda.Event | None = None
    """Reached when a GPU has done the row's last step; None on a CPU, and before the first step."""
    wants_preview: bool = False
    """Whether each step is to leave what it predicts in `predicted`."""
    predicted: Predicted | None = field(default=None, repr=False)
    """Replaced as a whole and never changed, so that another lane may look at it during a step."""
    numbers: torch.Tensor = field(init=False, repr=False)
    """(steps, 5) fp32 on the CPU: the schedule's columns, then the guidance scale."""
    _noise: torch.Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        guidance = torch.full((self.schedule.steps, 1), self.request.guidance_scale, dtype=torch.float32)
        self.numbers = torch.cat([self.schedule.table, guidance], dim=1)

    @property
    def steps_total(self) -> int:
        """How many steps the row needs."""
        return self.schedule.steps

    @property
    def control_weight(self) -> float:
        """The ControlNet's weight at the next step; 0 without a pose."""
        return 0.0 if self.control is None else self.control.weight(self.steps_done, self.steps_total)

    def next_noise(self) -> torch.Tensor | None:
        """The fresh noise of the next step, fp32 on the CPU, of the latents' shape; None where the sampler adds none.

        Drawn once a step, however often the step is tried.
        """
        if self.schedule.adds_noise and self._noise is None:
            self._noise = draw_noise(self.generator, self.latents.shape)
        return self._noise

    def tensors(self) -> list[torch.Tensor]:
        """All that a step reads of the row on the device."""
        texts = [self.text] if self.negative is None else [self.text, self.negative]
        tensors = [self.latents, self.time_ids, *(part for text in texts for part in (text.tokens, text.pooled))]
        if self.control is not None:
            tensors.append(self.control.embedding)
        return tensors if self.adapter is None else [*tensors, *self.adapter.lora.tensors()]

    def advance(self, latents: torch.Tensor, ready: torch.cuda.Event | None = None) -> None:
        """Take the step: new latents, which a GPU has worked out once `ready` is reached; the noise used up."""
        self.latents = latents
        self.ready = ready
        self.steps_done += 1
        self._noise = None


def draw_noise(generator: torch.Generator, shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise of `shape` in fp32 on the CPU: fp16 noise is this one rounded."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
