"""Samplers and schedules: their names here, which pairs there are, and what other tools call them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, get_args

Sampler = Literal[
    "euler_ancestral", "euler", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "ddim", "heun", "unipc", "lcm", "tcd"
]
Schedule = Literal["karras", "exponential", "beta", "sgm_uniform", "align_your_steps"]
"""Besides the model's own, which is null."""

SAMPLERS: Final[tuple[str, ...]] = get_args(Sampler)
SCHEDULES: Final[tuple[str, ...]] = get_args(Schedule)
TWO_CALLS: Final = frozenset({"dpmpp_sde", "heun"})
"""Samplers that call the UNet twice a step, except in the last one."""
DRAWS_NOISE: Final = frozenset({"euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde", "lcm", "tcd"})
"""Samplers that add fresh noise between calls."""
LCM_STEPS_MAX: Final = 50
"""Steps that a consistency model was distilled with: lcm and tcd choose theirs among them."""
_DISTILLED: Final = frozenset({"lcm", "tcd"})


class Choice(NamedTuple):
    """The sampler and the schedule that another tool's name stands for."""

    sampler: str
    schedule: str | None


def pair_fault(sampler: str, schedule: str | None, steps: int) -> str | None:
    """Return what is wrong with the pair as a sentence's end, with its remedy; None where there is such a pair."""
    if sampler in _DISTILLED and steps > LCM_STEPS_MAX:
        return f"steps is {steps}: {sampler} takes 1 to {LCM_STEPS_MAX}"
    if schedule is None or (sampler == "ddim" and schedule == "sgm_uniform"):
        return None
    if sampler in _DISTILLED:
        return f"schedule is {schedule!r}: {sampler} samples at the timesteps it was distilled with, leave schedule out"
    if sampler == "ddim":
        return f"schedule is {schedule!r}: ddim takes sgm_uniform or none; euler is its formula with every schedule"
    return None


_NAMES: Final[Mapping[str, str]] = {
    **{name.replace("_", ""): name for name in SAMPLERS},
    "eulera": "euler_ancestral",
    "eulerancestraldiscrete": "euler_ancestral",
    "eulerdiscrete": "euler",
    "dpmsolver": "dpmpp_2m",
    "dpmsolvermultistep": "dpmpp_2m",
    "dpmsolverpp": "dpmpp_2m",
    "dpmsolversde": "dpmpp_sde",
    "heundiscrete": "heun",
    "unipcmultistep": "unipc",
    "unipcbh2": "unipc",
}
"""By the plain form of a name: A1111 and Forge, ComfyUI, InvokeAI and AI Horde (`k_` before it), diffusers' classes."""
_ENDINGS: Final[Mapping[str, str]] = {
    **{name.replace("_", ""): name for name in SCHEDULES},
    "ays": "align_your_steps",
}


def named_elsewhere(name: str) -> Choice | None:
    """Return the sampler and the schedule that a tool's name stands for, None for one that is not known.

    `DPM++ 2M Karras`, `k_dpmpp_2m`, `dpmpp_2m_karras` and `DPMSolverMultistepScheduler` are all `dpmpp_2m`.
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower().replace("+", "p"))
    plain = plain.removesuffix("scheduler")
    schedule = None
    for ending, found in _ENDINGS.items():
        if plain.endswith(ending):
            plain, schedule = plain.removesuffix(ending), found
            break
    sampler = _NAMES.get(plain) or _NAMES.get(plain.removeprefix("k"))
    return None if sampler is None else Choice(sampler, schedule)


def in_our_names(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's document whose `sampler` may be another tool's name, with ours and the schedule it names.

    A schedule that the document has itself stays. A name that is not known stays, and is refused where it is read.
    """
    choice = named_elsewhere(name) if isinstance(name := document.get("sampler"), str) else None
    if choice is None or name in SAMPLERS:
        return dict(document)
    schedule = document.get("schedule") or choice.schedule
    return {**document, "sampler": choice.sampler, **({"schedule": schedule} if schedule else {})}
