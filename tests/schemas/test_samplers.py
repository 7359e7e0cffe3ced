"""Proves what other tools' names of samplers stand for, and which pairs of sampler and schedule there are."""

from __future__ import annotations

import pytest

from darkroom.schemas.events.samplers import SAMPLERS, SCHEDULES, in_our_names, named_elsewhere, pair_fault

NAMES: dict[str, tuple[str, str | None]] = {
    "Euler a": ("euler_ancestral", None),
    "Euler": ("euler", None),
    "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    "DPM++ 2M SDE Karras": ("dpmpp_2m_sde", "karras"),
    "DPM++ 2M SDE": ("dpmpp_2m_sde", None),
    "DPM++ SDE": ("dpmpp_sde", None),
    "DPM++ 2M SGMUniform": ("dpmpp_2m", "sgm_uniform"),
    "k_dpmpp_2m": ("dpmpp_2m", None),
    "k_euler_a": ("euler_ancestral", None),
    "k_euler_ancestral": ("euler_ancestral", None),
    "dpmpp_2m_karras": ("dpmpp_2m", "karras"),
    "dpmpp_2m": ("dpmpp_2m", None),
    "uni_pc": ("unipc", None),
    "uni_pc_bh2": ("unipc", None),
    "UniPC": ("unipc", None),
    "DDIM": ("ddim", None),
    "Heun": ("heun", None),
    "LCM": ("lcm", None),
    "TCD": ("tcd", None),
    "DPMSolverMultistep": ("dpmpp_2m", None),
    "DPMSolverMultistepScheduler": ("dpmpp_2m", None),
    "EulerAncestralDiscreteScheduler": ("euler_ancestral", None),
    "EulerDiscreteScheduler": ("euler", None),
    "HeunDiscreteScheduler": ("heun", None),
    "UniPCMultistepScheduler": ("unipc", None),
    "DPMSolverSDEScheduler": ("dpmpp_sde", None),
    "Euler AYS": ("euler", "align_your_steps"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_tools_name_is_understood(name: str) -> None:
    assert named_elsewhere(name) == NAMES[name]


@pytest.mark.parametrize("name", ["DPM2", "DPM2 a", "DPM++ 3M SDE", "DPM++ 2S a", "LMS", "PLMS", "DEIS", "Restart", ""])
def test_another_sampler_is_not_taken_for_one_of_ours(name: str) -> None:
    assert named_elsewhere(name) is None


def test_a_schedule_of_the_requests_own_stays() -> None:
    assert in_our_names({"sampler": "DPM++ 2M Karras"}) == {"sampler": "dpmpp_2m", "schedule": "karras"}
    both = {"sampler": "DPM++ 2M Karras", "schedule": "exponential"}
    assert in_our_names(both) == {"sampler": "dpmpp_2m", "schedule": "exponential"}
    for same in ({"sampler": "euler"}, {"sampler": "LMS"}, {"sampler": 3}, {}):
        assert in_our_names(same) == same


def test_pairs_that_do_not_exist_are_told_with_their_remedy() -> None:
    for sampler in SAMPLERS:
        assert pair_fault(sampler, None, 22) is None
    for schedule in SCHEDULES:
        assert "leave schedule out" in str(pair_fault("lcm", schedule, 4))
    assert "euler is its formula" in str(pair_fault("ddim", "karras", 22))
    assert pair_fault("ddim", "sgm_uniform", 22) is None
    assert "1 to 50" in str(pair_fault("tcd", None, 51))
