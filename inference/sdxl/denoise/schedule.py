"""Noise schedules: which timestep and which sigma each step has.

diffusers' schedulers say so, for whatever spacing, offset or sigma rule the model's configuration names. Only the
step's formula is ours (`darkroom.inference.sdxl.denoise.step`), because a scheduler object counts steps for its whole
batch and rows here are at different steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

from darkroom.inference.types import FaultKind, RenderFault

_SCHEDULERS: Final[Mapping[str, Any]] = {
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "euler": EulerDiscreteScheduler,
}
SAMPLERS: Final = tuple(_SCHEDULERS)

TIMESTEP, SIGMA, DT, SIGMA_UP = range(4)
"""Columns of `Schedule.table`."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One sampler's way through `steps` denoising steps."""

    table: torch.Tensor
    """(steps, 4) fp32 on the CPU: timestep, sigma_i, dt (what the derivative is multiplied with), sigma_up (the
    fresh noise's standard deviation, 0 throughout for a sampler that adds none)."""
    init_sigma: torch.Tensor
    """0-dimensional fp32: the standard deviation of the first latents."""
    adds_noise: bool
    """Whether every step draws noise from the row's generator."""

    @property
    def steps(self) -> int:
        """How many steps there are. `trailing` spacing can give one more than was asked for."""
        return self.table.shape[0]


class Schedules:
    """Schedules by (sampler, steps), each computed once. Bounded by the steps that a model was trained with."""

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        self._config = scheduler_config
        self._made: dict[tuple[str, int], Schedule] = {}

    def get(self, sampler: str, steps: int) -> Schedule:
        """The schedule of `steps` steps. Raises `RenderFault` (`invalid_request`) for an unknown sampler or number."""
        if sampler not in _SCHEDULERS:
            raise RenderFault(
                FaultKind.REQUEST, "invalid_request", f"There is no sampler {sampler!r}: use {' or '.join(SAMPLERS)}."
            )
        if (sampler, steps) not in self._made:
            self._made[sampler, steps] = self._make(sampler, steps)
        return self._made[sampler, steps]

    def _make(self, sampler: str, steps: int) -> Schedule:
        scheduler = _SCHEDULERS[sampler].from_config(self._config)
        trained = int(scheduler.config.num_train_timesteps)
        if not 1 <= steps <= trained:
            raise RenderFault(
                FaultKind.REQUEST, "invalid_request", f"{steps} steps are asked for: 1 to {trained} are possible."
            )
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps.to(torch.float32)
        sigmas = scheduler.sigmas.to(torch.float32)
        sigma, sigma_next = sigmas[:-1], sigmas[1:]
        if sampler == "euler_ancestral":
            sigma_down, sigma_up = _ancestral_split(sigma, sigma_next)
        else:
            sigma_down, sigma_up = sigma_next, torch.zeros_like(sigma)
        return Schedule(
            table=torch.stack([timesteps, sigma, sigma_down - sigma, sigma_up], dim=1),
            init_sigma=torch.as_tensor(scheduler.init_noise_sigma, dtype=torch.float32),
            adds_noise=sampler == "euler_ancestral",
        )


def _ancestral_split(sigma: torch.Tensor, sigma_next: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(sigma_down, sigma_up): how far an ancestral step denoises, and how much fresh noise brings it to sigma_next.

    sigma_up^2 = sigma_n^2 (sigma^2 - sigma_n^2) / sigma^2 and sigma_down^2 = sigma_n^2 - sigma_up^2, as
    k-diffusion and diffusers' EulerAncestralDiscreteScheduler have it.
    """
    sigma_up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    return (sigma_next**2 - sigma_up**2) ** 0.5, sigma_up
