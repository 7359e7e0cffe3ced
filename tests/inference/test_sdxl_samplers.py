"""Proves schedules, guidance and what a failed step keeps against diffusers' own schedulers in its own pipeline.

Each sampler's own row, in any company, is in tests/inference/test_parity_table.py.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.denoise.schedule import MADE_MAX, OF_X0_2, SAMPLERS, Schedules
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import RenderFault, RenderRequest
from darkroom.schemas.events.samplers import SCHEDULES, pair_fault
from tests.inference.devices import finished
from tests.inference.painting import (
    PLAIN,
    TOLERANCE,
    Oracle,
    distance,
    paint,
    paint_by_hand,
    paint_together,
    pixels,
    prepare,
)

pytestmark = pytest.mark.render

OTHER_SCHEDULES: list[tuple[str, str | None]] = [
    ("ddim", "sgm_uniform"),
    *(("dpmpp_2m", schedule) for schedule in SCHEDULES if schedule != "karras"),
    ("euler", "beta"),
    ("euler_ancestral", "exponential"),
    ("unipc", "sgm_uniform"),
]
"""Besides the model's own and Karras', which tests/inference/test_parity_table.py has."""
PAIRS: list[tuple[str, str | None]] = [
    *((name, one) for name in SAMPLERS for one in (None, "karras") if pair_fault(name, one, 6) is None),
    *OTHER_SCHEDULES,
]


def asked(sampler: str, schedule: str | None, **changes: Any) -> RenderRequest:
    steps = 10 if schedule == "align_your_steps" else 6
    return replace(PLAIN, **{"sampler": sampler, "schedule": schedule, "steps": steps, **changes})


@pytest.mark.parametrize(("sampler", "schedule"), OTHER_SCHEDULES)
def test_a_sampler_is_its_oracle_on_other_schedules(
    shared_device: SdxlDevice, oracle: Oracle, sampler: str, schedule: str | None
) -> None:
    request = asked(sampler, schedule)
    assert distance(paint(shared_device, request), oracle.paint(request)) <= TOLERANCE


def test_samplers_differ(oracle: Oracle) -> None:
    """Or else parity would be cheap. DDIM is Euler in other coordinates."""
    told_apart = [pair for pair in PAIRS if pair[0] != "ddim" and (pair[1] is None or pair[0].startswith("eul"))]
    pictures = [oracle.paint(asked(sampler, schedule)) for sampler, schedule in told_apart]
    for at, one in enumerate(pictures):
        assert all(distance(one, other) > TOLERANCE for other in pictures[at + 1 :]), told_apart[at]


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "dpmpp_sde", "unipc"])
def test_what_a_failed_step_drew_and_kept_serves_its_next_try(
    shared_device: SdxlDevice, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    request = asked(sampler, "karras")
    expected = paint(shared_device, request)
    rows = prepare(shared_device, request)
    for _ in range(3):
        shared_device.step(rows)
    history = rows[0].history
    with monkeypatch.context() as broken:
        broken.setattr("darkroom.inference.sdxl.denoise.step._linear_step", _fails)
        with pytest.raises(RuntimeError, match="the step failed"):
            shared_device.step(rows)
    assert rows[0].history is history
    while rows[0].steps_done < rows[0].steps_total:
        shared_device.step(rows)
    assert distance(pixels(finished(shared_device, rows)[0]), expected) == 0


def _fails(*_: object) -> None:
    raise RuntimeError("the step failed")


@pytest.mark.parametrize("window", [(0.0, 0.5), (0.3, 1.0), (0.25, 0.75), (0.5, 0.55)])
def test_outside_of_its_window_guidance_is_off(
    shared_device: SdxlDevice, oracle: Oracle, window: tuple[float, float]
) -> None:
    start, end = window
    request = asked("dpmpp_2m", None, steps=8, negative_prompt="dark", guidance_start=start, guidance_end=end)
    assert distance(paint(shared_device, request), paint_by_hand(oracle, request)) <= TOLERANCE


def test_a_row_outside_of_its_window_takes_one_slot(shared_device: SdxlDevice) -> None:
    [row] = prepare(shared_device, asked("euler", None, steps=4, guidance_end=0.5))
    guided = []
    while row.steps_done < row.steps_total:
        guided.append(row.is_guided)
        shared_device.step([row])
    assert guided == [True, True, False, False]


@pytest.mark.parametrize("rescale", [0.3, 0.7, 1.0])
def test_guidance_is_rescaled_as_the_pipeline_does(shared_device: SdxlDevice, oracle: Oracle, rescale: float) -> None:
    request = asked("euler", None, guidance_scale=9.0, guidance_rescale=rescale)
    assert distance(paint(shared_device, request), oracle.paint(request)) <= TOLERANCE
    together = paint_together(shared_device, [(0, request), (1, PLAIN), (2, asked("heun", None))])
    assert distance(together[0], oracle.paint(request)) <= TOLERANCE
    assert distance(together[1], oracle.paint(PLAIN)) <= TOLERANCE


def test_every_usual_number_of_steps_has_a_table(tiny: TinyModel) -> None:
    schedules = Schedules(json.loads((tiny.path / "scheduler" / "scheduler_config.json").read_text()))
    for sampler, schedule in PAIRS:
        for steps in (1, 2, 4, 11, 22, 35):
            made = schedules.get(sampler, steps, schedule)
            assert bool(torch.isfinite(made.table).all()), (sampler, schedule, steps)
            assert made.steps_after(made.calls) == made.steps
    assert bool(schedules.get("unipc", 22).table[:, OF_X0_2].any())


def test_tables_are_kept_within_a_bound(tiny: TinyModel) -> None:
    schedules = Schedules(json.loads((tiny.path / "scheduler" / "scheduler_config.json").read_text()))
    for steps in range(1, MADE_MAX + 50):
        schedules.get("euler", steps)
    assert len(schedules._made) == MADE_MAX
    assert schedules.get("euler", 1).calls == 1


@pytest.mark.parametrize(
    ("sampler", "schedule", "steps", "says"),
    [
        ("k_euler", None, 4, "no sampler"),
        ("euler", "linear", 4, "no schedule"),
        ("lcm", "karras", 4, "distilled with"),
        ("ddim", "karras", 4, "sgm_uniform"),
        ("euler", None, 1001, "1 to 1000"),
        ("lcm", None, 120, "1 to 50"),
    ],
)
def test_what_cannot_be_is_refused(
    shared_device: SdxlDevice, sampler: str, schedule: str | None, steps: int, says: str
) -> None:
    with pytest.raises(RenderFault, match=says) as refused:
        prepare(shared_device, asked(sampler, schedule, steps=steps))
    assert refused.value.code == "invalid_request"
