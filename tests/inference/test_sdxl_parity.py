"""Proves that the device paints what diffusers' own SDXL pipelines paint, alone and in any company.

Every picture is compared with one pipeline call for the same request on the same folders, pixel by pixel.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import RenderRequest
from tests.inference.painting import (
    PLAIN,
    POSED,
    SITTING,
    TOLERANCE,
    WAVING,
    Oracle,
    distance,
    load,
    paint,
    paint_together,
    prepare,
    variant,
)
from tests.inference.parity import COMPARISONS, TOLERANCES, distances, promised

pytestmark = pytest.mark.render

VISIBLE = 20
"""Of 255: a difference that is no rounding."""

REQUESTS = {
    "no negative prompt": PLAIN,
    "an empty negative prompt": replace(PLAIN, negative_prompt=""),
    "a negative prompt": replace(PLAIN, negative_prompt="blurred, dark"),
    "guidance of exactly 1": replace(PLAIN, guidance_scale=1.0, negative_prompt="ignored"),
    "guidance of 0": replace(PLAIN, guidance_scale=0.0),
    "guidance just above 1": replace(PLAIN, guidance_scale=1.01, negative_prompt=""),
    "strong guidance": replace(PLAIN, guidance_scale=12.5, seed=2**53 - 1),
    "euler": replace(PLAIN, sampler="euler"),
    "one step": replace(PLAIN, steps=1),
    "seven steps": replace(PLAIN, steps=7),
    "a prompt beyond 77 tokens": replace(PLAIN, prompt="many small animals " * 9),
    "a prompt beyond Latin-1": replace(PLAIN, prompt="雪の中の赤い狐 🦊"),
    "wide": replace(PLAIN, width=128, height=64),
    "tall, not a multiple of the UNet's own": replace(POSED, width=72, height=104),
    "a pose": POSED,
    "a pose without guidance": replace(POSED, guidance_scale=1.0),
    "a pose with euler": replace(POSED, sampler="euler", negative_prompt="dark"),
    "half of the control": replace(POSED, control_scale=0.5),
    "twice the control": replace(POSED, control_scale=2.0),
    "control of 0": replace(POSED, control_scale=0.0),
    "control at the end": replace(POSED, control_start=0.5, steps=6),
    "control at the start": replace(POSED, control_end=0.34, steps=6),
    "control in no whole step": replace(POSED, control_start=0.3, control_end=0.4),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_picture_rendered_alone_is_the_pipelines(shared_device: SdxlDevice, oracle: Oracle, name: str) -> None:
    assert distance(paint(shared_device, REQUESTS[name]), oracle.paint(REQUESTS[name])) <= TOLERANCE


def test_rows_that_share_steps_are_each_the_pipelines(shared_device: SdxlDevice, oracle: Oracle) -> None:
    joining = [
        (0, replace(PLAIN, steps=6, seed=1)),
        (0, replace(POSED, steps=4, seed=2, control_scale=0.7)),
        (1, replace(PLAIN, steps=3, seed=3, guidance_scale=1.0, prompt="a green sea")),
        (2, replace(POSED, steps=8, seed=4, pose=SITTING, guidance_scale=9.0, control_start=0.2, control_end=0.8)),
        (2, replace(POSED, steps=5, seed=5, guidance_scale=0.5, negative_prompt="ignored")),
        (3, replace(PLAIN, steps=5, seed=6, sampler="euler", negative_prompt="")),
        (5, replace(POSED, steps=4, seed=7, sampler="euler", control_end=0.5, negative_prompt="dark")),
        (30, replace(POSED, steps=2, seed=8, prompt="alone at the end")),
    ]
    painted = paint_together(shared_device, joining)
    for (_, request), picture in zip(joining, painted, strict=True):
        assert distance(picture, oracle.paint(request)) <= TOLERANCE, request


def test_a_batch_of_another_size_is_the_pipelines(shared_device: SdxlDevice, oracle: Oracle) -> None:
    joining: list[tuple[int, RenderRequest]] = [
        (0, replace(POSED, width=96, height=64, seed=1)),
        (1, replace(PLAIN, width=96, height=64, seed=2, steps=3)),
        (2, replace(POSED, width=96, height=64, seed=3, pose=SITTING)),
    ]
    painted = paint_together(shared_device, joining)
    for (_, request), picture in zip(joining, painted, strict=True):
        assert distance(picture, oracle.paint(request)) <= TOLERANCE


def test_the_requests_differ_from_each_other(oracle: Oracle) -> None:
    """Or else parity would be cheap: what the table varies must change the picture."""
    base, posed = oracle.paint(PLAIN), oracle.paint(POSED)
    for name in ("an empty negative prompt", "a negative prompt", "guidance of exactly 1", "strong guidance", "euler"):
        assert distance(oracle.paint(REQUESTS[name]), base) > VISIBLE, name
    for name in ("half of the control", "control of 0", "control at the end", "control at the start"):
        assert distance(oracle.paint(REQUESTS[name]), posed) > VISIBLE, name
    assert distance(base, posed) > VISIBLE


VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "v prediction": {"model/scheduler/scheduler_config.json": {"prediction_type": "v_prediction"}},
    "trailing spacing": {"model/scheduler/scheduler_config.json": {"timestep_spacing": "trailing", "steps_offset": 0}},
    "linspace, zero terminal SNR": {
        "model/scheduler/scheduler_config.json": {
            "timestep_spacing": "linspace",
            "rescale_betas_zero_snr": True,
            "prediction_type": "v_prediction",
        }
    },
    "karras sigmas": {"model/scheduler/scheduler_config.json": {"use_karras_sigmas": True}},
    "a last sigma that is not 0": {"model/scheduler/scheduler_config.json": {"final_sigmas_type": "sigma_min"}},
    "another scheduler's file": {
        "model/scheduler/scheduler_config.json": {"_class_name": "DDIMScheduler", "timestep_spacing": "linspace"},
        "model/model_index.json": {"scheduler": ["diffusers", "DDIMScheduler"]},
    },
    "latents with mean and deviation": {
        "model/vae/config.json": {"latents_mean": [0.2, -0.4, 0.1, 0.3], "latents_std": [1.1, 0.8, 0.9, 1.2]}
    },
    "no zeros for no text": {"model/model_index.json": {"force_zeros_for_empty_prompt": False}},
    "a pose in BGR": {"controlnet/config.json": {"controlnet_conditioning_channel_order": "bgr"}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_models_own_settings_are_followed(tiny: TinyModel, oracle: Oracle, tmp_path: Path, name: str) -> None:
    changed = variant(tiny, tmp_path, VARIANTS[name])
    device, its_oracle = load(changed), Oracle(changed.path, changed.controlnet_path)
    requests = [replace(POSED, seed=1), replace(PLAIN, seed=2, sampler="euler")]
    painted = paint_together(device, list(enumerate(requests)))
    differences = []
    for request, picture in zip(requests, painted, strict=True):
        assert distance(picture, its_oracle.paint(request)) <= TOLERANCE
        differences.append(distance(picture, oracle.paint(request)))
    assert max(differences) > TOLERANCE, "the setting changes nothing, so this test proves nothing"


def test_trailing_spacing_can_take_one_step_more_than_asked(tiny: TinyModel, tmp_path: Path) -> None:
    """150 / 7 is rounded so that an eighth step still falls above 0, and the control's window counts in eighths."""
    spacing = {"timestep_spacing": "trailing", "steps_offset": 0, "num_train_timesteps": 150}
    changed = variant(tiny, tmp_path, {"model/scheduler/scheduler_config.json": spacing})
    device, its_oracle = load(changed), Oracle(changed.path, changed.controlnet_path)
    request = replace(POSED, steps=7, control_end=0.5)
    assert prepare(device, request)[0].steps_total == 8
    assert distance(paint(device, request), its_oracle.paint(request)) <= TOLERANCE


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_the_published_table_is_kept(tiny: TinyModel, shared_device: SdxlDevice, oracle: Oracle, dtype: str) -> None:
    device, its_oracle = shared_device, oracle
    if dtype != "float32":
        device = load(tiny, dtype=dtype)
        its_oracle = Oracle(tiny.path, tiny.controlnet_path, getattr(torch, dtype))
    assert device.info.dtype == dtype
    measured = dict(distances(device, its_oracle))
    assert list(measured) == list(COMPARISONS)
    for comparison, found in measured.items():
        assert found.within(promised(dtype, comparison, device_kind="cpu")), (comparison, found)


def test_the_pose_of_a_request_is_followed(shared_device: SdxlDevice) -> None:
    waving, sitting, none = (paint(shared_device, replace(PLAIN, pose=pose)) for pose in (WAVING, SITTING, None))
    assert distance(waving, sitting) > VISIBLE
    assert distance(waving, none) > VISIBLE
