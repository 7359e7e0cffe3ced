"""The oracle's scheduler for each sampler and schedule: diffusers' own, or k-diffusion's formula where it has none."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

_LIBRARY: Any = diffusers
_OPTIONS: dict[str | None, dict[str, Any]] = {
    None: {},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "sgm_uniform": {"timestep_spacing": "trailing"},
    "align_your_steps": {},
}
_CLASSES: dict[str, tuple[Any, dict[str, Any]]] = {
    "euler": (_LIBRARY.EulerDiscreteScheduler, {}),
    "dpmpp_2m": (_LIBRARY.DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (_LIBRARY.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "ddim": (_LIBRARY.DDIMScheduler, {"clip_sample": False}),
    "heun": (_LIBRARY.HeunDiscreteScheduler, {}),
    "unipc": (_LIBRARY.UniPCMultistepScheduler, {}),
    "lcm": (_LIBRARY.LCMScheduler, {}),
    "tcd": (_LIBRARY.TCDScheduler, {"clip_sample": False}),
}


def scheduler_of(sampler: str, schedule: str | None, config: Mapping[str, Any]) -> Any:
    """Return what the pipeline is to sample with."""
    options = _OPTIONS[schedule]
    if sampler == "euler_ancestral":
        if schedule is None:
            return _LIBRARY.EulerAncestralDiscreteScheduler.from_config(config)
        return EulerAncestral(config, **options)
    if sampler == "dpmpp_sde":
        return DpmppSde(config, **options)
    scheduler_class, fixed = _CLASSES[sampler]
    return scheduler_class.from_config(config, **fixed, **options)


class _Sigmas(ABC):
    """What a pipeline asks of a scheduler, on the sigmas and timesteps of diffusers' Euler."""

    order = 1

    def __init__(self, config: Mapping[str, Any], **options: Any) -> None:
        self._euler = _LIBRARY.EulerDiscreteScheduler.from_config(config, **options)
        self.config = self._euler.config
        self.calls: list[tuple[float, float]] = []
        """By call: the sigma and the timestep at which the UNet is asked."""

    def set_timesteps(self, steps: int | None = None, device: Any = None) -> None:
        self._euler.set_timesteps(steps, device=device)
        self.sigmas = [float(one) for one in self._euler.sigmas]
        self.calls = self.planned([float(one) for one in self._euler.timesteps])
        self.timesteps = torch.tensor([timestep for _, timestep in self.calls])
        self.init_noise_sigma = self._euler.init_noise_sigma
        self._call = 0

    def set_begin_index(self, begin_index: int = 0) -> None:
        self._call = begin_index

    def add_noise(self, sample: torch.Tensor, fresh: torch.Tensor, _: Any) -> torch.Tensor:
        noised: torch.Tensor = sample + fresh * self.calls[self._call][0]
        return noised

    def planned(self, timesteps: list[float]) -> list[tuple[float, float]]:
        return list(zip(self.sigmas[:-1], timesteps, strict=True))

    def scale_model_input(self, sample: torch.Tensor, _: Any) -> torch.Tensor:
        scaled: torch.Tensor = sample / (self.calls[self._call][0] ** 2 + 1) ** 0.5
        return scaled

    def denoised(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        sigma = self.calls[self._call][0]
        if self.config.prediction_type == "v_prediction":
            denoised: torch.Tensor = sample / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5
        else:
            denoised = sample - sigma * output
        return denoised

    def step(
        self, output: torch.Tensor, _: Any, sample: torch.Tensor, generator: Any = None, return_dict: bool = True
    ) -> tuple[torch.Tensor]:
        after = self.after(self.denoised(output, sample), sample, generator)
        self._call += 1
        return (after,)

    @abstractmethod
    def after(self, denoised: torch.Tensor, x: torch.Tensor, generator: Any) -> torch.Tensor:
        """Return the latents after the call."""


def ancestral(sigma_from: float, sigma_to: float) -> tuple[float, float]:
    """Return k-diffusion's `get_ancestral_step` with eta 1: sigma_down, sigma_up."""
    up = min(sigma_to, (sigma_to**2 * (sigma_from**2 - sigma_to**2) / sigma_from**2) ** 0.5)
    return (sigma_to**2 - up**2) ** 0.5, up


def noise(x: torch.Tensor, generator: Any) -> torch.Tensor:
    drawn: torch.Tensor = randn_tensor(x.shape, generator=generator, dtype=x.dtype)
    return drawn


class EulerAncestral(_Sigmas):
    """k-diffusion's `sample_euler_ancestral`, for sigmas that diffusers' ancestral scheduler cannot be given."""

    def after(self, denoised: torch.Tensor, x: torch.Tensor, generator: Any) -> torch.Tensor:
        sigma, sigma_next = self.sigmas[self._call], self.sigmas[self._call + 1]
        down, up = ancestral(sigma, sigma_next)
        x = x + (x - denoised) / sigma * (down - sigma)
        return x + noise(x, generator) * up


class DpmppSde(_Sigmas):
    """k-diffusion's `sample_dpmpp_sde` (Lu et al. 2022), eta 1, s_noise 1, r 1/2, noise drawn anew for each half."""

    order = 2

    def planned(self, timesteps: list[float]) -> list[tuple[float, float]]:
        kept = self._euler.alphas_cumprod.double().numpy()
        trained = np.log(((1 - kept) / kept) ** 0.5)
        calls = []
        for at, timestep in enumerate(timesteps):
            calls.append((self.sigmas[at], timestep))
            if self.sigmas[at + 1]:
                middle = np.exp(-self._middle(at))
                calls.append((float(middle), float(np.interp(np.log(middle), trained, np.arange(len(trained))))))
        return calls

    def _middle(self, at: int) -> float:
        t, t_next = -np.log(self.sigmas[at]), -np.log(self.sigmas[at + 1])
        return float(t + (t_next - t) / 2)

    def after(self, denoised: torch.Tensor, x: torch.Tensor, generator: Any) -> torch.Tensor:
        at, is_second = divmod(self._call, 2)
        sigma, sigma_next = self.sigmas[at], self.sigmas[at + 1]
        if sigma_next == 0:
            return x + (x - denoised) / sigma * (sigma_next - sigma)
        if not is_second:
            self._x = x
            down, up = ancestral(sigma, float(np.exp(-self._middle(at))))
            h = np.log(sigma) - np.log(down)
            return float(down / sigma) * x - float(np.expm1(-h)) * denoised + up * noise(x, generator)
        down, up = ancestral(sigma, sigma_next)
        h = np.log(sigma) - np.log(down)
        return float(down / sigma) * self._x - float(np.expm1(-h)) * denoised + up * noise(x, generator)
