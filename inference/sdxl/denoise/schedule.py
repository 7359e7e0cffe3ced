"""Samplers and noise schedules as tables: the timestep and the coefficients of every step.

diffusers' schedulers supply the timesteps and sigmas, for any spacing, offset or sigma rule that the model's
configuration names. Only the step's formula is ours (`darkroom.inference.sdxl.denoise.step`), because a scheduler
object counts steps for its whole batch and rows here are at different steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

from darkroom.inference.types import FaultKind, RenderFault

TIMESTEP, SIGMA, DT, SIGMA_UP = range(4)
"""Columns of `Schedule.table`."""


class Split(NamedTuple):
    """The two halves of a step from sigma to sigma_next."""

    sigma_down: torch.Tensor
    """(steps,) the noise level to which the step denoises."""
    sigma_up: torch.Tensor
    """(steps,) the standard deviation of the fresh noise that brings it to sigma_next."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """One way from noise to a picture. A new one is a line of `SAMPLERS`."""

    scheduler: Any
    """diffusers' class, the source of timesteps and sigmas and the reference for the pictures."""
    split: Callable[[torch.Tensor, torch.Tensor], Split]
    """Makes each step's split from sigma and sigma_next, both (steps,)."""
    adds_noise: bool
    """True if every step draws noise from the row's generator."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One sampler's path through `steps` denoising steps."""

    table: torch.Tensor
    """(steps, 4) fp32 on the CPU: timestep, sigma_i, dt (the derivative's factor), sigma_up (the fresh noise's standard
    deviation, 0 throughout for a sampler that adds none)."""
    init_sigma: torch.Tensor
    """0-dimensional fp32: the standard deviation of the first latents."""
    adds_noise: bool
    """As in `Sampler`."""

    @property
    def steps(self) -> int:
        """The number of steps. `trailing` spacing can give one more than was requested."""
        return self.table.shape[0]


def _plain_split(sigma: torch.Tensor, sigma_next: torch.Tensor) -> Split:
    """Denoise all the way to sigma_next, without fresh noise."""
    return Split(sigma_next, torch.zeros_like(sigma))


def _ancestral_split(sigma: torch.Tensor, sigma_next: torch.Tensor) -> Split:
    """Denoise below sigma_next, and return to it with fresh noise.

    sigma_up^2 = sigma_n^2 (sigma^2 - sigma_n^2) / sigma^2 and sigma_down^2 = sigma_n^2 - sigma_up^2, as in k-diffusion
    and in diffusers' EulerAncestralDiscreteScheduler.
    """
    sigma_up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    return Split((sigma_next**2 - sigma_up**2) ** 0.5, sigma_up)


DEFAULT_SAMPLER: Final = "euler_ancestral"
SAMPLERS: Final[Mapping[str, Sampler]] = {
    DEFAULT_SAMPLER: Sampler(EulerAncestralDiscreteScheduler, _ancestral_split, adds_noise=True),
    "euler": Sampler(EulerDiscreteScheduler, _plain_split, adds_noise=False),
}


class Schedules:
    """Schedules by (sampler, steps), each computed once. Bounded by the number of training steps of the model."""

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        self._config = scheduler_config
        self._made: dict[tuple[str, int], Schedule] = {}

    def get(self, sampler: str, steps: int) -> Schedule:
        """Return the schedule of `steps` steps.

        Raises `RenderFault` (`invalid_request`) for an unknown sampler or an impossible number of steps.
        """
        if sampler not in SAMPLERS:
            raise RenderFault(
                FaultKind.REQUEST, "invalid_request", f"There is no sampler {sampler!r}: use {' or '.join(SAMPLERS)}."
            )
        if (sampler, steps) not in self._made:
            self._made[sampler, steps] = self._make(SAMPLERS[sampler], steps)
        return self._made[sampler, steps]

    def _make(self, sampler: Sampler, steps: int) -> Schedule:
        scheduler = sampler.scheduler.from_config(self._config)
        trained = int(scheduler.config.num_train_timesteps)
        if not 1 <= steps <= trained:
            raise RenderFault(
                FaultKind.REQUEST, "invalid_request", f"The request has {steps} steps: ask for 1 to {trained}."
            )
        scheduler.set_timesteps(steps)
        sigmas = scheduler.sigmas.to(torch.float32)
        sigma = sigmas[:-1]
        split = sampler.split(sigma, sigmas[1:])
        return Schedule(
            table=torch.stack(
                [scheduler.timesteps.to(torch.float32), sigma, split.sigma_down - sigma, split.sigma_up], dim=1
            ),
            init_sigma=torch.as_tensor(scheduler.init_noise_sigma, dtype=torch.float32),
            adds_noise=sampler.adds_noise,
        )
