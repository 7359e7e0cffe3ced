"""Proves that a picture that starts from another one is what diffusers' own img2img pipelines paint of it."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.prepare.starts import fitted
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import RenderFault, RenderJob, RenderRequest
from darkroom.schemas.events.init import InitPicture, steps_skipped
from darkroom.schemas.events.pose import StoredPicture
from darkroom.schemas.events.samplers import SAMPLERS
from tests.inference.painting import (
    PLAIN,
    POSED,
    SITTING,
    TOLERANCE,
    Oracle,
    distance,
    load,
    paint,
    paint_together,
    picture_to_start_from,
    prepare,
    variant,
)

pytestmark = pytest.mark.render

VISIBLE = 20
"""Of 255: a difference that is no rounding."""
PICTURE = picture_to_start_from()
STORED = InitPicture(image=StoredPicture(bucket="darkroom", key="init.png"))


def started(strength: float = 0.6, request: RenderRequest = PLAIN, **changes: Any) -> RenderRequest:
    return replace(request, **{"steps": 6, "init": InitPicture(image=PICTURE, strength=strength), **changes})


REQUESTS = {
    "half of it": started(0.5),
    "nearly all of it": started(0.99),
    "a step of it": started(0.2),
    "a share that rounds down": started(0.29, steps=100, sampler="euler", guidance_scale=1.0),
    "without guidance": started(guidance_scale=1.0),
    "rescaled guidance": started(guidance_scale=9.0, guidance_rescale=0.7),
    "another size than the picture's": started(width=96, height=72),
    "a pose": started(0.7, POSED),
    "a pose in a window": started(0.8, POSED, control_scale=0.6, control_start=0.2, control_end=0.7),
    "a pose, another sampler": started(0.7, POSED, sampler="dpmpp_2m", schedule="karras"),
    "the published timesteps": started(0.7, sampler="dpmpp_2m", schedule="align_your_steps", steps=10),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_picture_started_from_another_is_the_pipelines(shared_device: SdxlDevice, oracle: Oracle, name: str) -> None:
    assert distance(paint(shared_device, REQUESTS[name]), oracle.paint(REQUESTS[name])) <= TOLERANCE


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        *((sampler, None) for sampler in SAMPLERS),
        # The other two sample at the timesteps that their models were distilled with.
        *((sampler, "sgm_uniform") for sampler in SAMPLERS if sampler not in ("lcm", "tcd")),
    ],
)
def test_every_sampler_begins_where_the_pipelines_does(
    shared_device: SdxlDevice, oracle: Oracle, sampler: str, schedule: str | None
) -> None:
    request = started(0.6, sampler=sampler, schedule=schedule, steps=7)
    assert distance(paint(shared_device, request), oracle.paint(request)) <= TOLERANCE


def test_rows_that_start_from_pictures_share_steps_with_any_others(shared_device: SdxlDevice, oracle: Oracle) -> None:
    joining = [
        (0, replace(PLAIN, steps=6, seed=1)),
        (0, started(0.5, seed=2)),
        (1, started(0.7, POSED, seed=3, pose=SITTING)),
        (
            2,
            started(
                0.9, sampler="dpmpp_2m", seed=4, init=InitPicture(image=picture_to_start_from(seed=1), strength=0.9)
            ),
        ),
        (2, replace(POSED, steps=4, seed=5)),
        (3, started(0.6, sampler="heun", seed=6, guidance_scale=1.0)),
        (4, started(0.4, sampler="unipc", seed=7)),
    ]
    painted = paint_together(shared_device, joining)
    for (_, request), picture in zip(joining, painted, strict=True):
        assert distance(picture, oracle.paint(request)) <= TOLERANCE, request


def test_the_picture_and_its_strength_show(oracle: Oracle) -> None:
    """Or else parity would be cheap."""
    half = oracle.paint(started(0.5))
    assert distance(half, oracle.paint(replace(started(0.5), init=None))) > VISIBLE
    assert distance(half, oracle.paint(started(0.9))) > VISIBLE
    other = InitPicture(image=picture_to_start_from(seed=1), strength=0.5)
    assert distance(half, oracle.paint(started(init=other))) > VISIBLE


VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "v prediction": {"model/scheduler/scheduler_config.json": {"prediction_type": "v_prediction"}},
    "one timestep more than asked": {
        "model/scheduler/scheduler_config.json": {
            "timestep_spacing": "trailing", "steps_offset": 0, "num_train_timesteps": 150,
        }
    },
    "latents with mean and deviation": {
        "model/vae/config.json": {"latents_mean": [0.2, -0.4, 0.1, 0.3], "latents_std": [1.1, 0.8, 0.9, 1.2]}
    },
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_a_models_own_settings_are_followed(tiny: TinyModel, oracle: Oracle, tmp_path: Path, name: str) -> None:
    changed = variant(tiny, tmp_path, VARIANTS[name])
    request = started(0.6, steps=7)
    expected = Oracle(changed.path, changed.controlnet_path).paint(request)
    assert distance(paint(load(changed), request), expected) <= TOLERANCE
    assert distance(expected, oracle.paint(request)) > TOLERANCE, "the setting changes nothing"


def test_a_row_takes_the_steps_that_its_strength_leaves(shared_device: SdxlDevice) -> None:
    for strength, sampler, calls in ((0.5, "euler", 5), (0.99, "euler", 9), (0.5, "heun", 9), (0.55, "dpmpp_sde", 9)):
        request = started(strength, steps=10, sampler=sampler)
        assert prepare(shared_device, request)[0].steps_total == request.calls == calls
    assert steps_skipped(100, 0.29) == 72, "diffusers rounds 28.999999999999996 down"


def test_each_image_draws_from_its_own_seed(shared_device: SdxlDevice) -> None:
    first, second = prepare(shared_device, started(0.5, count=2))
    assert distance(paint(shared_device, started(0.5, seed=PLAIN.seed + 1)), paint(shared_device, started(0.5))) > 0
    [alone] = prepare(shared_device, started(0.5, seed=PLAIN.seed + 1))
    assert second.latents.equal(alone.latents)
    assert not first.latents.equal(second.latents)


def test_a_picture_is_encoded_once_a_size_and_fit(tiny: TinyModel) -> None:
    device = load(tiny)
    before = device.cache_counts()["init"]

    def gained() -> tuple[int, int]:
        now = device.cache_counts()["init"]
        return now.hits - before.hits, now.misses - before.misses

    prepare(device, started(0.5))
    prepare(device, started(0.7, seed=9))
    assert gained() == (1, 1)
    stored = replace(started(), init=STORED)
    device.prepare(RenderJob("job", stored, {"init": PICTURE.content}))
    assert gained() == (2, 1), "the same picture, however it was sent"
    prepare(device, started(0.5, width=96))
    prepare(device, started(init=InitPicture(image=PICTURE, fit="cover")))
    assert gained() == (2, 3)


def test_an_overflowing_vae_encodes_in_fp32_beside_half_precision(tiny: TinyModel, tmp_path: Path) -> None:
    """diffusers flips the VAE's dtype for the call; here its weights are fp32 from the start."""
    import torch

    changed = variant(tiny, tmp_path, {"model/vae/config.json": {"force_upcast": True}})
    device = load(changed, dtype="float16")
    request = started(0.6, seed=5)
    expected = Oracle(changed.path, changed.controlnet_path, torch.float16).paint(request)
    assert distance(paint(device, request), expected) <= 12


@pytest.mark.parametrize(
    ("content", "code", "says"),
    [
        (PICTURE.content[:-200], "pose_unreadable", "The picture to start from is not a whole PNG"),
        (b"GIF89a" + bytes(40), "pose_unreadable", "The picture to start from is GIF"),
        (bytes(200_000), "image_too_large", "at most 100000 are read"),
        (None, "pose_unreadable", "darkroom/init.png, was not fetched"),
    ],
)
def test_a_picture_that_cannot_be_read_is_refused_before_any_step(
    tiny: TinyModel, content: bytes | None, code: str, says: str
) -> None:
    device = load(tiny, pose_limits=PictureLimits(bytes_max=100_000))
    pictures = {} if content is None else {"init": content}
    with pytest.raises(RenderFault, match=says) as caught:
        device.prepare(RenderJob("job", replace(started(), init=STORED), pictures))
    assert caught.value.code == code


def test_pixels_are_counted_before_they_are_decoded(tiny: TinyModel) -> None:
    content = io.BytesIO()
    Image.new("1", (20_000, 9_000)).save(content, "PNG")
    with pytest.raises(RenderFault, match=r"The picture to start from has (20000 x 9000|too many) pixels") as caught:
        load(tiny).prepare(RenderJob("job", replace(started(), init=STORED), {"init": content.getvalue()}))
    assert caught.value.code == "image_too_large"


def test_other_aspects_are_fitted_as_asked() -> None:
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 10, 20))  # a quarter at the left
    stretched, contained, covered = (fitted(picture, 20, 20, fit) for fit in ("stretch", "contain", "cover"))  # type: ignore[arg-type]
    assert {one.size for one in (stretched, contained, covered)} == {(20, 20)}
    red, blue = (255, 0, 0), (0, 0, 255)
    assert (stretched.getpixel((1, 10)), stretched.getpixel((9, 10))) == (blue, red)
    assert (contained.getpixel((1, 0)), contained.getpixel((1, 19)), contained.getpixel((9, 0))) == (blue, blue, red)
    assert covered.getpixel((3, 10)) == red, "the left quarter is cut off"


def test_economy_starts_from_pictures_too(shared_device: SdxlDevice) -> None:
    exact = started(0.9, sampler="euler", steps=22)
    economy = replace(exact, fidelity="economy")
    [row] = prepare(shared_device, economy)
    while row.steps_done < row.steps_total:
        shared_device.step([row])
    assert row.full_steps < row.steps_total == 19
    painted = paint(shared_device, economy)
    assert TOLERANCE < distance(painted, paint(shared_device, exact)) < distance(painted, paint(shared_device, PLAIN))
    joining = [(0, PLAIN), (1, economy), (2, started(0.5, POSED))]
    assert distance(paint_together(shared_device, joining)[1], painted) <= TOLERANCE
