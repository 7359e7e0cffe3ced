"""Proves what an economy picture promises: it is its request's alone, near the exact one, and cheaper by full calls.

An economy row beside exact ones, joined late, retried or dropped, is compared with the same row alone; the exact
picture is compared with what an engine without economy rows paints.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.sdxl.denoise.reuse import Kept, ReusePlan, plan_reuse
from darkroom.inference.sdxl.denoise.rows import SdxlRow
from darkroom.inference.sdxl.denoise.schedule import SAMPLERS, Schedules
from darkroom.inference.sdxl.loading.checks import economy_refused
from darkroom.inference.tiny import TinyModel
from darkroom.inference.tiny.folder import trained_model
from darkroom.inference.types import AdapterUse, RenderJob
from darkroom.schemas.events.samplers import DRAWS_NOISE
from darkroom.tools.tiny.quality.painting import Ask, Painter
from darkroom.tools.tiny.quality.table import fresh_scenes
from tests.inference import loras
from tests.inference.devices import finished
from tests.inference.painting import (
    PLAIN,
    POSED,
    TOLERANCE,
    Pixels,
    distance,
    paint,
    paint_together,
    pixels,
    prepare,
)

pytestmark = pytest.mark.render

STEPS = 18
STEADY = replace(POSED, fidelity="economy", sampler="euler", steps=STEPS)
NOISY = replace(STEADY, sampler="euler_ancestral", seed=12)
PLAIN_STEADY = replace(PLAIN, fidelity="economy", sampler="dpmpp_2m", steps=STEPS, seed=13)
UNGUIDED = replace(STEADY, guidance_scale=1.0, seed=14)
WINDOWS = replace(STEADY, control_start=0.2, control_end=0.7, guidance_start=0.1, guidance_end=0.8, seed=15)
RESCALED = replace(NOISY, guidance_rescale=0.7, seed=16)
ECONOMY = [STEADY, NOISY, PLAIN_STEADY, UNGUIDED, WINDOWS, RESCALED]
NAMES = ["steady", "noisy", "plain", "unguided", "windows", "rescaled"]


@pytest.fixture(scope="module")
def alone(shared_device: SdxlDevice) -> list[Pixels]:
    return [paint(shared_device, request) for request in ECONOMY]


# --- Which calls are full -------------------------------------------------------------------------------------


def plan(sampler: str, steps: int = 22, **windows: Sequence[Any]) -> ReusePlan | None:
    return plan_reuse(
        sampler, [(weight,) for weight in windows.get("weights", [1.0] * steps)], windows.get("guided", [True] * steps)
    )


def full(made: ReusePlan | None) -> list[int]:
    assert made is not None
    return [call for call, is_full in enumerate(made.full) if is_full]


def test_a_sampler_that_draws_noise_and_looks_back_has_two_full_calls_before_each_shallow_one() -> None:
    made = plan("dpmpp_2m_sde")
    assert full(made) == [call for call in range(22) if call % 3 != 2]
    assert made is not None
    assert not any(made.ahead)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_sde"])
def test_a_sampler_that_draws_noise_reuses_for_one_call_and_extrapolates_nothing(sampler: str) -> None:
    made = plan(sampler)
    assert full(made) == list(range(0, 22, 2))
    assert made is not None
    assert not any(made.ahead)


CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_samplers_that_draw_noise_are_known_without_their_tables(sampler: str) -> None:
    assert any(Schedules(CONFIG).get(sampler, 8).draws) == (sampler in DRAWS_NOISE)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "unipc"])
def test_a_sampler_that_looks_back_reuses_for_one_call(sampler: str) -> None:
    made = plan(sampler)
    assert full(made) == list(range(0, 22, 2))
    assert made is not None
    assert any(made.ahead)


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
def test_a_sampler_without_noise_reuses_for_longer(sampler: str) -> None:
    made = plan(sampler)
    assert made is not None
    assert sum(made.full) < 11
    assert any(made.ahead)


def test_fewer_steps_reuse_less_and_few_none() -> None:
    shares = [sum(made.full) / len(made.full) for steps in (12, 16, 22) if (made := plan("euler", steps)) is not None]
    assert shares == sorted(shares, reverse=True)
    assert plan("euler", 4) is plan("lcm", 4) is None


def test_a_call_is_full_where_the_pose_or_guidance_begins_or_the_pose_ends() -> None:
    posed = plan("euler_ancestral", weights=[0.0] * 5 + [1.0] * 8 + [0.0] * 9)
    assert {5, 13} <= set(full(posed))
    guided = plan("euler_ancestral", guided=[False] * 5 + [True] * 7 + [False] * 10)
    assert 5 in full(guided)
    assert 12 not in full(guided), "without guidance there is nothing to compute anew"


# --- Company -------------------------------------------------------------------------------------------------


def test_an_economy_picture_is_another_one_than_the_exact(shared_device: SdxlDevice, alone: list[Pixels]) -> None:
    """The tiny model's weights are random here, so that any reuse shows."""
    for request, economy in zip(ECONOMY, alone, strict=True):
        assert distance(paint(shared_device, replace(request, fidelity="exact")), economy) > TOLERANCE


def test_every_kind_of_row_beside_all_others_is_itself(shared_device: SdxlDevice, alone: list[Pixels]) -> None:
    exact = [replace(POSED, steps=9, seed=1), replace(PLAIN, steps=20, sampler="dpmpp_2m", seed=2)]
    joining = [*((number * 2 % 5, request) for number, request in enumerate(ECONOMY)), (1, exact[0]), (4, exact[1])]
    painted = paint_together(shared_device, joining)
    for name, beside, by_itself in zip(NAMES, painted, alone, strict=False):
        assert distance(beside, by_itself) <= TOLERANCE, name
    for request, beside in zip(exact, painted[len(ECONOMY) :], strict=True):
        assert distance(beside, paint(shared_device, request)) <= TOLERANCE


@settings(deadline=None, max_examples=8)
@given(data=st.data())
def test_joins_failures_and_departures_change_no_picture(
    shared_device: SdxlDevice, alone: list[Pixels], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(ECONOMY) - 1), min_size=2, max_size=4, unique=True), label="rows")
    joins = [data.draw(st.integers(0, 4), label="joins at") for _ in chosen]
    exact = prepare(shared_device, replace(POSED, steps=7, seed=3))[0]
    rows = [prepare(shared_device, ECONOMY[number], f"job-{number}")[0] for number in chosen]
    dropped = data.draw(st.sampled_from([None, *chosen[1:]]), label="dropped")
    fails = data.draw(st.sets(st.integers(0, 20), max_size=4), label="failing boundaries")
    painted: dict[int, Pixels] = {}
    for boundary in range(40):
        active = [row for row, at in zip(rows, joins, strict=True) if at <= boundary and row.steps_done < STEPS]
        if dropped is not None and boundary > 8:
            active = [row for row in active if row is not rows[chosen.index(dropped)]]
        if exact.steps_done < exact.steps_total:
            active.append(exact)
        if not active:
            continue
        if boundary in fails:
            with failing(shared_device), pytest.raises(RuntimeError, match="scripted"):
                shared_device.step(active)
        shared_device.step(active)
    for number, row in zip(chosen, rows, strict=True):
        if number != dropped:
            painted[number] = pixels(finished(shared_device, [row])[0])
            assert distance(painted[number], alone[number]) <= TOLERANCE, NAMES[number]


class failing:  # noqa: N801 - reads as a word at its place
    """The UNet's last convolution, which full and shallow forwards end with, fails inside the block."""

    def __init__(self, device: SdxlDevice) -> None:
        self._layer = device._loaded().components.unet.conv_out

    def __enter__(self) -> None:
        def fail(*_: Any) -> None:
            raise RuntimeError("scripted")

        self._hook = self._layer.register_forward_hook(fail)

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


def test_a_step_that_fails_changes_nothing_that_a_row_keeps(shared_device: SdxlDevice) -> None:
    row = prepare(shared_device, STEADY)[0]
    for call in range(STEPS):
        kept, latents = row.kept, row.latents
        with failing(shared_device), pytest.raises(RuntimeError, match="scripted"):
            shared_device.step([row])
        assert (row.steps_done, row.kept is kept, row.latents is latents) == (call, True, True)
        shared_device.step([row])


# --- Work ----------------------------------------------------------------------------------------------------


def counting(seen: list[list[int]], place: int) -> Any:
    def count(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        seen[-1][place] += len(inputs[0])

    return count


def slots_by_step(device: SdxlDevice, rows: Sequence[SdxlRow], steps: int) -> list[tuple[int, int, int]]:
    """Take steps; return by step the slots of the UNet's middle, of the ControlNet's and of the UNet's first layer."""
    components = device._loaded().components
    seen: list[list[int]] = []
    layers = (components.unet.mid_block, components.controlnets["controlnet"].mid_block, components.unet.conv_in)
    hooks = [layer.register_forward_pre_hook(counting(seen, place)) for place, layer in enumerate(layers)]
    for _ in range(steps):
        seen.append([0, 0, 0])
        device.step(rows)
    for hook in hooks:
        hook.remove()
    return [(first, second, third) for first, second, third in seen]


def test_a_shallow_call_runs_one_slot_of_the_outermost_layers(shared_device: SdxlDevice) -> None:
    row = prepare(shared_device, STEADY)[0]
    assert row.reuse is not None
    expected = [(2, 2, 2) if is_full else (0, 0, 1) for is_full in row.reuse.full]
    assert slots_by_step(shared_device, [row], STEPS) == expected
    assert row.full_steps == sum(row.reuse.full) < STEPS


def test_a_step_has_one_full_and_one_shallow_forward_at_most(shared_device: SdxlDevice) -> None:
    rows = [prepare(shared_device, one, f"job-{number}")[0] for number, one in enumerate([STEADY, NOISY, UNGUIDED])]
    exact = prepare(shared_device, replace(POSED, steps=STEPS))[0]
    plans = [row.reuse.full for row in rows if row.reuse is not None]
    expected = []
    for call in range(STEPS):
        full_slots = 2 + sum(
            1 if row.negative is None else 2 for row, one in zip(rows, plans, strict=True) if one[call]
        )
        expected.append((full_slots, full_slots, full_slots + sum(not one[call] for one in plans)))
    assert slots_by_step(shared_device, [*rows, exact], STEPS) == expected


def _is_alone(kept: Kept | None) -> bool:
    assert kept is not None
    assert kept.delta is not None
    tensors = (kept.deep, *kept.residuals, kept.delta)
    return all(len(one) == 1 and one.untyped_storage().nbytes() == one.nbytes for one in tensors)


def test_what_a_row_keeps_is_its_own_and_is_freed_with_its_last_reuse(shared_device: SdxlDevice) -> None:
    rows = [prepare(shared_device, one, f"job-{number}")[0] for number, one in enumerate([STEADY, NOISY])]
    shared_device.step(rows)
    assert all(_is_alone(row.kept) for row in rows), "no part of the whole batch's tensors"
    watched = weakref.ref(rows[1].kept.deep)  # type: ignore[union-attr]
    dropped = rows.pop()
    shared_device.step(rows)
    del dropped
    gc.collect()
    assert watched() is None, "what a dropped row kept is freed while its neighbours go on"
    while rows[0].steps_done < STEPS:
        shared_device.step(rows)
    assert rows[0].kept is None


# --- LoRAs ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adapted(
    tiny: TinyModel, shared_device: SdxlDevice, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SdxlDevice]:
    """A device with a LoRA of the outermost layers alone."""
    folder = tmp_path_factory.mktemp("adapters")
    unet = shared_device._loaded().components.unet
    last = len(unet.up_blocks) - 1
    names = ["conv_in", "down_blocks.0.resnets.0.conv1", f"up_blocks.{last}.resnets.0.conv1"]
    loras.peft_file(folder / "outer.safetensors", loras.Layers({"unet": unet}, 1), {"unet": names})
    files = ModelFiles(tiny.path, tiny.controlnet_path, adapters_path=folder)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    yield device
    device.close()


def test_a_lora_acts_in_shallow_calls_on_its_own_row_alone(adapted: SdxlDevice) -> None:
    with_lora = replace(STEADY, adapters=(AdapterUse("outer", 1.0),))
    [beside, without] = paint_together(adapted, [(0, with_lora), (0, STEADY)])
    assert distance(beside, paint(adapted, with_lora)) <= TOLERANCE
    assert distance(without, paint(adapted, STEADY)) <= TOLERANCE
    rows = [prepare(adapted, with_lora, f"job-{number}")[0] for number in range(2)]
    while rows[0].next_is_full:
        for row in rows:
            adapted.step([row])
    rows[1].adapters = ()
    for row in rows:
        adapted.step([row])
    assert (rows[0].latents - rows[1].latents).abs().max() > 1e-3


# --- Models and quality ---------------------------------------------------------------------------------------


def test_a_unet_of_another_shape_is_refused_by_what_is_different(shared_device: SdxlDevice) -> None:
    from diffusers import UNet2DConditionModel

    assert economy_refused(shared_device._loaded().components.unet) is None
    small: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4, "cross_attention_dim": 8}
    other = UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1, attention_head_dim=2, **small,
    )  # fmt: skip
    assert "begins with CrossAttnDownBlock2D and ends with CrossAttnUpBlock2D" in (economy_refused(other) or "")
    unlike = UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, attention_head_dim=2, **small,
    )  # fmt: skip
    assert "SDXL embeds text_time" in (economy_refused(unlike) or "")


def test_too_few_steps_give_the_exact_picture_and_say_so(shared_device: SdxlDevice) -> None:
    request = replace(STEADY, steps=4)
    prepared = shared_device.prepare(RenderJob("job", request))
    assert prepared.warnings == (
        "fidelity: economy saves nothing with euler at 4 steps: the picture is the exact one.",
    )
    assert distance(paint(shared_device, request), paint(shared_device, replace(request, fidelity="exact"))) == 0


def test_the_trained_models_economy_pictures_are_near_the_exact_ones() -> None:
    """The measurement on 200 pairs is in the documentation; a few pictures show reuse that is wrong."""
    torch.set_num_threads(1)
    model, scenes = trained_model(), fresh_scenes(6)
    painter = Painter(model.path, model.controlnet_path)
    for sampler, least in (("euler", 38.0), ("euler_ancestral", 35.0)):
        ask = Ask(sampler=sampler)  # type: ignore[arg-type]
        exact, economy = (painter.paint(scenes, replace(ask, fidelity=one)) for one in ("exact", "economy"))
        errors = [np.mean((one.astype(float) - other) ** 2) for one, other in zip(exact, economy, strict=True)]
        assert min(errors) > 0, "nothing was reused"
        assert np.mean([10 * np.log10(255**2 / error) for error in errors]) > least, sampler
    painter.close()
