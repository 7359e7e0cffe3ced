"""Proves that a mask's inside is what diffusers' own inpaint pipelines paint, and that the rest stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.types import RenderFault, RenderRequest
from darkroom.schemas.events.init import MASK_UNDONE_BY, InitMask, InitPicture
from darkroom.schemas.events.samplers import SAMPLERS
from tests.inference.painting import (
    PLAIN,
    POSED,
    TOLERANCE,
    Oracle,
    Pixels,
    distance,
    mask_of,
    mask_to_paint_in,
    paint,
    paint_together,
    picture_to_start_from,
    prepare,
    start_of,
)

pytestmark = pytest.mark.render

VISIBLE = 20
"""Of 255: a difference that is no rounding."""
PICTURE = picture_to_start_from()
BOX = (24, 20, 72, 60)


def masked(strength: float = 0.7, request: RenderRequest = PLAIN, **changes: Any) -> RenderRequest:
    """Return a request whose pixels outside of the mask are the VAE's, as diffusers gives them."""
    init = InitPicture(image=PICTURE, strength=strength)
    mask = InitMask(image=mask_to_paint_in(BOX), composite=False)
    return replace(request, **{"steps": 6, "init": init, "mask": mask, **changes})


REQUESTS = {
    "most of the steps": masked(0.7),
    "all of the steps, from noise": masked(1.0),
    "all of the steps but for a hair": masked(0.9999),
    "a few steps": masked(0.34, sampler="euler"),
    "without guidance": masked(guidance_scale=1.0),
    "another size than the picture's": masked(width=96, height=72),
    "a pose": masked(0.8, POSED),
    "a pose, from noise": masked(1.0, POSED, control_scale=0.6, control_end=0.7),
    "a pose, another sampler": masked(0.7, POSED, sampler="dpmpp_2m", schedule="karras"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_masked_picture_is_the_pipelines(shared_device: SdxlDevice, oracle: Oracle, name: str) -> None:
    assert distance(paint(shared_device, REQUESTS[name]), oracle.paint(REQUESTS[name])) <= TOLERANCE


@pytest.mark.parametrize("sampler", [one for one in SAMPLERS if one not in MASK_UNDONE_BY])
def test_every_sampler_blends_as_the_pipelines_does(shared_device: SdxlDevice, oracle: Oracle, sampler: str) -> None:
    request = masked(0.7, sampler=sampler, steps=7)
    assert distance(paint(shared_device, request), oracle.paint(request)) <= TOLERANCE


def test_masked_rows_share_steps_with_any_others(shared_device: SdxlDevice, oracle: Oracle) -> None:
    joining = [
        (0, replace(PLAIN, steps=6, seed=1)),
        (0, masked(0.6, seed=2)),
        (1, masked(0.9, POSED, seed=3)),
        (2, masked(seed=4, mask=None)),
        (3, masked(1.0, sampler="dpmpp_sde", seed=5)),
        (3, replace(POSED, steps=4, seed=6)),
    ]
    painted = paint_together(shared_device, joining)
    for (_, request), picture in zip(joining, painted, strict=True):
        assert distance(picture, oracle.paint(request)) <= TOLERANCE, request


@pytest.mark.parametrize("changes", [{}, {"pose": POSED.pose}, {"width": 96, "height": 72}, {"fidelity": "economy"}])
def test_nothing_changes_outside_of_the_mask(shared_device: SdxlDevice, changes: dict[str, Any]) -> None:
    for blur in (0, 6):
        mask = InitMask(image=mask_to_paint_in(BOX), blur=blur)
        request = masked(1.0, **changes, mask=mask)
        painted, original, inside = paint(shared_device, request), _pixels(start_of(request)), _inside(request)
        assert distance(painted[~inside], original[~inside]) == 0
        assert distance(painted[inside], original[inside]) > VISIBLE
    plain = paint(shared_device, replace(request, mask=InitMask(image=mask_to_paint_in(BOX))))
    assert distance(plain, painted) > TOLERANCE, "it fades"


def test_without_composite_the_rest_went_through_the_vae(shared_device: SdxlDevice) -> None:
    request = masked(1.0)
    painted, original, inside = paint(shared_device, request), _pixels(start_of(request)), _inside(request)
    assert distance(painted[~inside], original[~inside]) > 0


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (mask_to_paint_in((0, 0, 0, 0)), "The mask is empty"),
        (mask_to_paint_in((1, 1, 3, 3)), "The mask is empty"),
        (mask_to_paint_in((0, 0, 96, 80)), "The mask is full"),
        (mask_to_paint_in(BOX, 96, 96), "96 x 96 pixels and the picture to start from 96 x 80"),
    ],
)
def test_a_mask_that_says_nothing_is_refused(shared_device: SdxlDevice, mask: Any, says: str) -> None:
    with pytest.raises(RenderFault, match=says) as caught:
        prepare(shared_device, masked(mask=InitMask(image=mask)))
    assert caught.value.code == "invalid_request"


def _pixels(picture: Any) -> Pixels:
    return np.asarray(picture, dtype=np.int16)


def _inside(request: RenderRequest) -> Any:
    return np.asarray(mask_of(request)) > 0
