"""Proves each sampler and schedule against diffusers' own scheduler in its own pipeline, alone and in mixed company."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.denoise.schedule import MADE_MAX, OF_X0_2, SAMPLERS, Schedules
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import RenderFault, RenderRequest
from darkroom.schemas.events.samplers import SCHEDULES
from tests.inference.devices import finished
from tests.inference.painting import (
    PLAIN,
    POSED,
    TOLERANCE,
    Oracle,
    distance,
    load,
    paint,
    paint_by_hand,
    paint_together,
    pixels,
    prepare,
    variant,
)

pytestmark = pytest.mark.render

TAKES_ALL = [name for name in SAMPLERS if name not in {"ddim", "lcm", "tcd"}]
PAIRS: list[tuple[str, str | None]] = [
    *((name, None) for name in SAMPLERS),
    *((name, "karras") for name in TAKES_ALL),
    ("ddim", "sgm_uniform"),
    *(("dpmpp_2m", schedule) for schedule in SCHEDULES if schedule != "karras"),
    ("euler", "beta"),
    ("euler_ancestral", "exponential"),
    ("unipc", "sgm_uniform"),
]


def asked(sampler: str, schedule: str | None, **changes: Any) -> RenderRequest:
    steps = 10 if schedule == "align_your_steps" else 6
    return replace(PLAIN, **{"sampler": sampler, "schedule": schedule, "steps": steps, **changes})


@pytest.fixture(scope="module")
def predicts_v(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    changes = {"model/scheduler/scheduler_config.json": {"prediction_type": "v_prediction"}}
    return variant(tiny, tmp_path_factory.mktemp("v"), changes)


@pytest.mark.parametrize(("sampler", "schedule"), PAIRS)
def test_a_sampler_is_its_oracle(shared_device: SdxlDevice, oracle: Oracle, sampler: str, schedule: str | None) -> None:
    request = asked(sampler, schedule)
    assert distance(paint(shared_device, request), oracle.paint(request)) <= TOLERANCE


def test_each_is_its_oracle_where_the_model_predicts_v(predicts_v: TinyModel) -> None:
    device, oracle = load(predicts_v), Oracle(predicts_v.path, predicts_v.controlnet_path)
    apart = {}
    for sampler, schedule in PAIRS[: len(SAMPLERS) + len(TAKES_ALL)]:
        request = asked(sampler, schedule)
        apart[sampler, schedule] = distance(paint(device, request), oracle.paint(request))
    device.close()
    assert {pair: far for pair, far in apart.items() if far > TOLERANCE} == {}


def test_all_samplers_share_steps(shared_device: SdxlDevice) -> None:
    joining = [
        (number // 2, asked(sampler, schedule, seed=number, pose=POSED.pose if number % 3 == 0 else None))
        for number, (sampler, schedule) in enumerate(PAIRS[:12])
    ]
    together = paint_together(shared_device, joining)
    for (_, request), picture in zip(joining, together, strict=True):
        assert distance(picture, paint(shared_device, request)) <= TOLERANCE, request.sampler


def test_a_repeat_is_the_same_to_the_last_bit(shared_device: SdxlDevice) -> None:
    for sampler in SAMPLERS:
        request = asked(sampler, None)
        assert distance(paint(shared_device, request), paint(shared_device, request)) == 0, sampler


def test_samplers_differ(oracle: Oracle) -> None:
    """Or else parity would be cheap. DDIM is Euler in other coordinates."""
    told_apart = [pair for pair in PAIRS[: len(SAMPLERS) + 3] if pair[0] != "ddim"]
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


def test_a_random_request_is_the_same_in_random_company(shared_device: SdxlDevice) -> None:
    dice = random.Random(18)
    requests = []
    for number in range(24):
        sampler, schedule = dice.choice(PAIRS)
        requests.append(
            asked(
                sampler,
                schedule,
                seed=number,
                guidance_scale=dice.choice([1.0, 4.0, 9.0]),
                guidance_start=dice.choice([0.0, 0.0, 0.2]),
                guidance_end=dice.choice([0.7, 1.0]),
                guidance_rescale=dice.choice([0.0, 0.0, 0.6]),
                pose=dice.choice([None, POSED.pose]),
                control_scale=dice.choice([0.4, 1.0]),
                control_end=dice.choice([0.6, 1.0]),
            )
        )
    joining = sorted(((dice.randrange(12), request) for request in requests), key=lambda one: one[0])
    together = paint_together(shared_device, joining)
    for (_, request), picture in zip(joining, together, strict=True):
        assert distance(picture, paint(shared_device, request)) <= TOLERANCE, request


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
