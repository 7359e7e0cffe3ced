"""Schedules and samplers as tables of numbers: one row for each call of the UNet on the way from noise to picture.

Every sampler here is linear in a short history. With x the latents and x0 the denoised picture that the UNet's
prediction p implies,

    x0 = a x + b p
    x' = c0 x + c1 x0 + c2 x0_1 + c3 x0_2 + c4 x_1 + c5 noise

where x0_1 and x0_2 are the x0 of the one and two calls before, and x_1 the latents of the call before. The numbers
depend on the schedule alone. diffusers' schedulers give them: `measured` feeds a scheduler random x and x0 and solves
for the numbers, call by call. So a scheduler's object, which counts steps for its whole batch, never meets rows that
are at different steps, and a new sampler is one entry in `SAMPLERS`.

Euler's two samplers keep their own formula (`darkroom.inference.sdxl.denoise.step`), in diffusers' order of operations.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import torch

from darkroom.inference.types import FaultKind, RenderFault
from darkroom.schemas.events.samplers import SCHEDULES, pair_fault

(
    TIMESTEP,
    INPUT_SIGMA,
    SIGMA,
    DT,
    SIGMA_UP,
    X0_OF_X,
    X0_OF_P,
    OF_X,
    OF_X0,
    OF_X0_1,
    OF_X0_2,
    OF_X_1,
    OF_NOISE,
) = range(13)
"""Columns of `Schedule.table`. The UNet's input is x / sqrt(INPUT_SIGMA^2 + 1). SIGMA, DT and SIGMA_UP are Euler's;
the columns after them are the general formula's."""
COLUMNS: Final = OF_NOISE + 1

_SIGMA_RULES: Final[Mapping[str, Mapping[str, Any]]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "sgm_uniform": {"timestep_spacing": "trailing"},
}
"""diffusers' options of the schedules that are an option there."""
_AYS_SIGMA_LAST: Final = 0.029
"""What follows the ten published sigmas of Align Your Steps for SDXL before 0 (Sabour et al. 2024, the project's page);
needed between them and for other numbers of steps."""

_RESIDUAL_MAX: Final = 3e-6
"""Of the largest value: above the rounding of diffusers' fp32 (4.6e-7 at most was seen), far below a missing term."""
_PROBE: Final = (1, 4, 16, 16)
"""The shape of the random latents that a scheduler is measured with: UniPC takes four dimensions only."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """One sampler's way through `calls` calls of the UNet."""

    table: torch.Tensor
    """(calls, COLUMNS) fp32 on the CPU."""
    init_sigma: torch.Tensor
    """0-dimensional fp32: the standard deviation of the first latents."""
    draws: tuple[bool, ...]
    """By call, whether it draws noise from the row's generator."""
    sigmas: torch.Tensor
    """(calls,) fp64: by call sqrt((1 - abar) / abar)."""
    steps: int
    """What people call steps: a sampler with two calls a step has about twice as many calls."""
    is_euler: bool = False
    """Whether Euler's own formula applies."""
    keeps: int = 0
    """How many x0 of calls before a row has to keep; see `keeps_x`."""
    keeps_x: bool = False
    """Whether a row has to keep the latents of the call before."""
    is_scaled: bool = True
    """Whether x grows with sigma; else it has unit variance. See `noising`."""
    skipped: int = 0
    """The number of first steps that are left out: the first call stands behind them."""

    @property
    def calls(self) -> int:
        """Number of calls. `trailing` spacing can give one more step than was asked for."""
        return self.table.shape[0]

    def steps_after(self, calls: int) -> int:
        """Whole steps that `calls` calls have taken."""
        return self.steps if calls >= self.calls else calls * self.steps // self.calls

    def noising(self, call: int) -> tuple[float, float]:
        """Return a and s of x = a x0 + s noise: what the latents x0 of a known picture are before `call`.

        x0 + sigma noise where x grows with sigma, else sqrt(abar) x0 + sqrt(1 - abar) noise: `add_noise` of diffusers'
        schedulers.
        """
        if call >= self.calls:
            return 1.0, 0.0
        sigma = float(self.sigmas[call])
        kept = 1.0 if self.is_scaled else 1 / math.sqrt(sigma**2 + 1)
        return kept, sigma * kept


MADE_MAX: Final = 256
"""Tables that are kept: each has up to 15 KB, and making one anew takes a call of a scheduler for each step."""


class Schedules:
    """Schedules by (sampler, schedule, steps), the last `MADE_MAX` of them kept."""

    def __init__(self, scheduler_config: Mapping[str, Any]) -> None:
        self._config = scheduler_config
        self._made: dict[tuple[str, str | None, int, int], Schedule] = {}

    def get(self, sampler: str, steps: int, schedule: str | None = None, *, skipped: int = 0) -> Schedule:
        """Return the table of `steps` steps, of which the first `skipped` (fewer than all) are left out.

        Raises `RenderFault` (`invalid_request`) for an unknown name, a pair that does not exist, or a number of steps
        that the model or the sampler cannot take.
        """
        if sampler not in SAMPLERS:
            _refuse(f"There is no sampler {sampler!r}: use one of {', '.join(SAMPLERS)}.")
        if schedule is not None and schedule not in SCHEDULES:
            _refuse(f"There is no schedule {schedule!r}: use one of {', '.join(SCHEDULES)}, or null.")
        if fault := pair_fault(sampler, schedule, steps):
            _refuse(f"The request cannot be sampled: {fault}.")
        key = (sampler, schedule, steps, skipped)
        if key not in self._made:
            trained = int(self._config.get("num_train_timesteps", 1000))
            if not 1 <= steps <= trained:
                _refuse(f"{steps} steps are asked for: 1 to {trained} are possible.")
            self._made[key] = SAMPLERS[sampler](self._config, schedule, steps, skipped)
            if len(self._made) > MADE_MAX:
                del self._made[next(iter(self._made))]
        return self._made[key]


Maker = Callable[[Mapping[str, Any], str | None, int, int], Schedule]
"""Makes the table from the model's scheduler configuration, a schedule's name, the steps and how many are skipped."""


def _refuse(sentence: str) -> None:
    raise RenderFault(FaultKind.REQUEST, "invalid_request", sentence)


# --- Euler ------------------------------------------------------------------------------------------------


def _euler(
    config: Mapping[str, Any], schedule: str | None, steps: int, skipped: int, *, is_ancestral: bool
) -> Schedule:
    import diffusers

    # diffusers' ancestral scheduler knows no schedules; their sigmas are those of its plain one.
    name = "EulerAncestralDiscreteScheduler" if is_ancestral and schedule is None else "EulerDiscreteScheduler"
    scheduler = _scheduled(getattr(diffusers, name), config, schedule, steps)
    sigmas = scheduler.sigmas.to(torch.float32)[skipped:]
    sigma, sigma_next = sigmas[:-1], sigmas[1:]
    sigma_down, sigma_up = (
        _ancestral_split(sigma, sigma_next) if is_ancestral else (sigma_next, torch.zeros_like(sigma))
    )
    table = torch.zeros(len(sigma), COLUMNS)
    table[:, TIMESTEP] = scheduler.timesteps.to(torch.float32)[skipped:]
    table[:, INPUT_SIGMA] = table[:, SIGMA] = sigma
    table[:, DT] = sigma_down - sigma
    table[:, SIGMA_UP] = sigma_up
    init_sigma = torch.as_tensor(scheduler.init_noise_sigma, dtype=torch.float32)
    return Schedule(
        table, init_sigma, (is_ancestral,) * len(sigma), sigma.double(), len(sigma), is_euler=True, skipped=skipped
    )


def _ancestral_split(sigma: torch.Tensor, sigma_next: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (sigma_down, sigma_up): how far an ancestral step denoises, and the noise that brings it to sigma_next.

    sigma_up^2 = sigma_n^2 (sigma^2 - sigma_n^2) / sigma^2 and sigma_down^2 = sigma_n^2 - sigma_up^2, as
    k-diffusion and diffusers' EulerAncestralDiscreteScheduler have it.
    """
    sigma_up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
    return (sigma_next**2 - sigma_up**2) ** 0.5, sigma_up


# --- Samplers whose numbers diffusers gives ----------------------------------------------------------------


def measured(name: str, **options: Any) -> Maker:
    """Return the maker of a sampler whose numbers are measured on diffusers' scheduler of that class name.

    `options` are the scheduler's own.
    """

    def make(config: Mapping[str, Any], schedule: str | None, steps: int, skipped: int) -> Schedule:
        import diffusers

        asked = {**config, "prediction_type": "sample"}
        scheduler = _scheduled(getattr(diffusers, name), asked, schedule, steps, **options)
        return _measure(scheduler, config, steps, skipped)

    return make


def _measure(scheduler: Any, config: Mapping[str, Any], steps: int, skipped: int) -> Schedule:
    """Feed the scheduler its own way with random x0, and solve for the numbers of each call in float64.

    A sampler that looks back begins without a history behind the steps that are skipped, as in diffusers' pipelines.
    """
    first = skipped * scheduler.order
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    dice = torch.Generator().manual_seed(0)
    drawn, again = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    table = torch.zeros(len(timesteps), COLUMNS, dtype=torch.float64)
    x = torch.randn(_PROBE, generator=dice) * float(scheduler.init_noise_sigma)
    denoised: list[torch.Tensor] = []
    draws = []
    for call, timestep in enumerate(timesteps):
        denoised.append(torch.randn(_PROBE, generator=dice))
        if hasattr(scheduler, "scale_model_input"):
            scheduler.scale_model_input(x, timestep)
        before = drawn.get_state()
        with_noise = {"generator": drawn} if takes_generator else {}
        after = scheduler.step(denoised[-1], timestep, x, return_dict=False, **with_noise)[0]
        draws.append(not torch.equal(before, drawn.get_state()))
        terms = {OF_X: x, OF_X0: denoised[-1]}
        noise = {OF_NOISE: torch.randn(_PROBE, generator=again)} if draws[-1] else {}
        for column, back in ((None, 0), (OF_X0_1, 2), (OF_X0_2, 3)):
            if column is not None:
                if len(denoised) < back:
                    raise RuntimeError(f"{type(scheduler).__name__} is not linear in its history at call {call}")
                terms[column] = denoised[-back]
            numbers, residual = _solved(terms | noise, after)
            if residual <= _RESIDUAL_MAX:
                break
        else:
            raise RuntimeError(f"{type(scheduler).__name__} needs more history than two calls at call {call}")
        for column, number in numbers.items():
            table[call, column] = number
        x = after
    sigmas, is_scaled = _sigmas_of(scheduler)
    sigmas = sigmas[first:]
    prediction = config.get("prediction_type", "epsilon")
    table[:, TIMESTEP] = timesteps.to(torch.float64)
    table[:, INPUT_SIGMA] = sigmas if is_scaled else 0.0
    table[:, X0_OF_X], table[:, X0_OF_P] = _denoising(sigmas, is_scaled=is_scaled, prediction=prediction)
    return Schedule(
        table=table.to(torch.float32),
        init_sigma=torch.as_tensor(scheduler.init_noise_sigma, dtype=torch.float32),
        draws=tuple(draws),
        sigmas=sigmas,
        steps=steps - skipped if len(draws) > len(set(timesteps.tolist())) else len(draws),
        keeps=2 if bool(table[:, OF_X0_2].any()) else int(bool(table[:, OF_X0_1].any())),
        is_scaled=is_scaled,
        skipped=skipped,
    )


def _solved(terms: Mapping[int, torch.Tensor], after: torch.Tensor) -> tuple[dict[int, float], float]:
    """Return the least-squares number of each term, and the largest residual as a share of the largest value."""
    matrix = torch.stack([term.flatten() for term in terms.values()], dim=1).double()
    target = after.flatten().double()
    numbers = torch.linalg.lstsq(matrix, target.unsqueeze(1), driver="gelsd").solution[:, 0]
    residual = float((matrix @ numbers - target).abs().max() / target.abs().max())
    return dict(zip(terms, numbers.tolist(), strict=True)), residual


def _sigmas_of(scheduler: Any) -> tuple[torch.Tensor, bool]:
    """Return by call sigma = sqrt((1 - abar) / abar), and whether x grows with it (x = x0 + sigma noise).

    The others keep x at unit variance: x = sqrt(abar) x0 + sqrt(1 - abar) noise.
    """
    name = type(scheduler).__name__
    if name in ("DDIMScheduler", "LCMScheduler", "TCDScheduler"):
        kept = scheduler.alphas_cumprod[scheduler.timesteps.to(torch.int64)].double()
        return ((1 - kept) / kept) ** 0.5, False
    sigmas = scheduler.sigmas.double()[: len(scheduler.timesteps)]
    if name == "HeunDiscreteScheduler":
        return sigmas, True
    return sigmas, False


def _denoising(sigmas: torch.Tensor, *, is_scaled: bool, prediction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a and b of x0 = a x + b p, by call, for latents that grow with sigma or have unit variance.

    Salimans and Ho 2022 define v; with unit variance x = alpha x0 + s eps and x0 = alpha x - s v.
    """
    alpha = 1 / (sigmas**2 + 1) ** 0.5
    if is_scaled:
        if prediction == "v_prediction":
            return alpha**2, -sigmas * alpha
        return torch.ones_like(sigmas), -sigmas
    if prediction == "v_prediction":
        return alpha, -sigmas * alpha
    return 1 / alpha, -sigmas


# --- DPM++ SDE ---------------------------------------------------------------------------------------------


def _dpmpp_sde(config: Mapping[str, Any], schedule: str | None, steps: int, skipped: int) -> Schedule:
    """DPM++ SDE with two calls a step, as k-diffusion's `sample_dpmpp_sde` with eta 1, s_noise 1 and r 1/2.

    With t = -log sigma, a step goes from t through s = t + h / 2 to t' = t + h; each half draws noise of its own from
    the row's generator (k-diffusion's `default_noise_sampler`). The last step, to sigma 0, is one Euler call.
    """
    import diffusers

    scheduler = _scheduled(diffusers.EulerDiscreteScheduler, config, schedule, steps)
    sigmas = scheduler.sigmas.double()
    trained = _trained_sigmas(config)
    rows: list[list[float]] = []
    for at in range(skipped, len(sigmas) - 1):
        sigma, sigma_next = float(sigmas[at]), float(sigmas[at + 1])
        timestep = float(scheduler.timesteps[at])
        if sigma_next == 0:
            rows.append([timestep, sigma, 0.0, 1.0, 0.0, 0.0, 0.0])
            continue
        middle = math.sqrt(sigma * sigma_next)
        down, up = (float(one) for one in _ancestral_split(torch.tensor(sigma), torch.tensor(middle)))
        # x_2 = (down / sigma) x - expm1(-h_s) x0 + up noise, and h_s = log(sigma / down).
        rows.append([timestep, sigma, down / sigma, 1 - down / sigma, 0.0, 0.0, up])
        down, up = (float(one) for one in _ancestral_split(torch.tensor(sigma), torch.tensor(sigma_next)))
        # With r = 1/2 the blend (1 - 1 / 2r) x0 + (1 / 2r) x0_2 is x0_2 alone.
        rows.append([_timestep_of(middle, trained), middle, 0.0, 1 - down / sigma, 0.0, down / sigma, up])
    table = torch.zeros(len(rows), COLUMNS, dtype=torch.float64)
    numbers = torch.tensor(rows, dtype=torch.float64)
    order = (TIMESTEP, INPUT_SIGMA, OF_X, OF_X0, OF_X0_1, OF_X_1, OF_NOISE)
    for place, column in enumerate(order):
        table[:, column] = numbers[:, place]
    prediction = config.get("prediction_type", "epsilon")
    table[:, X0_OF_X], table[:, X0_OF_P] = _denoising(table[:, INPUT_SIGMA], is_scaled=True, prediction=prediction)
    return Schedule(
        table=table.to(torch.float32),
        init_sigma=torch.as_tensor(scheduler.init_noise_sigma, dtype=torch.float32),
        draws=tuple(bool(number) for number in table[:, OF_NOISE]),
        sigmas=table[:, INPUT_SIGMA].clone(),
        steps=len(sigmas) - 1 - skipped,
        keeps_x=True,
        skipped=skipped,
    )


# --- Schedules ---------------------------------------------------------------------------------------------


def _scheduled(
    scheduler_class: Any, config: Mapping[str, Any], schedule: str | None, steps: int, **options: Any
) -> Any:
    """Return a scheduler of that class with its timesteps set, which begins at the first."""
    # Clipping and thresholding bound pixels; latents are not pixels.
    known = inspect.signature(scheduler_class.__init__).parameters
    plain = {name: False for name in ("clip_sample", "thresholding") if name in known}
    chosen = {name: value for name, value in config.items() if name in known}
    scheduler = scheduler_class(**{**chosen, **plain, **_SIGMA_RULES.get(schedule or "", {}), **options})
    scheduler.set_timesteps(steps)
    if schedule == "align_your_steps":
        _align_your_steps(scheduler, config, steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler


def _align_your_steps(scheduler: Any, config: Mapping[str, Any], steps: int) -> None:
    """Put the published timesteps for SDXL in place: as they stand for 10 steps, else log-linear between the sigmas."""
    from diffusers.schedulers.scheduling_utils import AysSchedules

    trained = _trained_sigmas(config)
    timesteps = np.asarray(AysSchedules["StableDiffusionXLTimesteps"], dtype=np.float64)
    sigmas = np.interp(timesteps, np.arange(len(trained)), trained)
    if steps != len(timesteps):
        known = np.log(np.append(sigmas, _AYS_SIGMA_LAST))
        wanted = np.linspace(0, len(known) - 1, steps + 1)[:-1]
        sigmas = np.exp(np.interp(wanted, np.arange(len(known)), known))
        timesteps = np.asarray([_timestep_of(float(one), trained) for one in sigmas])
    ends = torch.tensor([*sigmas, 0.0], dtype=torch.float32)
    begins = torch.tensor(timesteps, dtype=torch.float32)
    if type(scheduler).__name__ == "HeunDiscreteScheduler":
        ends = torch.cat([ends[:1], ends[1:-1].repeat_interleave(2), ends[-1:]])
        begins = torch.cat([begins[:1], begins[1:].repeat_interleave(2)])
    scheduler.sigmas, scheduler.timesteps = ends, begins


def _trained_sigmas(config: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return sigma of every training timestep, ascending."""
    import diffusers

    scheduler = _scheduled(diffusers.EulerDiscreteScheduler, config, None, 1)
    kept = scheduler.alphas_cumprod.double().numpy()
    trained: np.ndarray[Any, np.dtype[np.float64]] = ((1 - kept) / kept) ** 0.5
    return trained


def _timestep_of(sigma: float, trained: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    """Return the timestep of a sigma, log-linear between the trained ones, as k-diffusion's models do."""
    return float(np.interp(math.log(sigma), np.log(trained), np.arange(len(trained))))


DEFAULT_SAMPLER: Final = "euler_ancestral"
SAMPLERS: Final[Mapping[str, Maker]] = {
    "euler_ancestral": partial(_euler, is_ancestral=True),
    "euler": partial(_euler, is_ancestral=False),
    "dpmpp_2m": measured("DPMSolverMultistepScheduler", algorithm_type="dpmsolver++"),
    "dpmpp_2m_sde": measured("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++"),
    "dpmpp_sde": _dpmpp_sde,
    "ddim": measured("DDIMScheduler"),
    "heun": measured("HeunDiscreteScheduler"),
    "unipc": measured("UniPCMultistepScheduler"),
    "lcm": measured("LCMScheduler"),
    "tcd": measured("TCDScheduler"),
}
