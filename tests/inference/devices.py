"""The devices that must keep `darkroom.inference.contract.Device`, by name, and how to look at their pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import pytest
from PIL import Image, ImageChops

from darkroom.inference.contract import Device
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.types import RenderedImage, RenderFault
from tests.inference.scripted import ScriptedDevice

if TYPE_CHECKING:
    from darkroom.inference.tiny import TinyModel

PAINTING = ["simulated", pytest.param("sdxl", marks=pytest.mark.render)]
"""Devices whose pictures are pictures."""
EVERY = ["scripted", *PAINTING]


def make_device(name: str, request: pytest.FixtureRequest) -> Device[Any]:
    """A device of its own, not loaded."""
    if name == "scripted":
        return ScriptedDevice()
    if name == "simulated":
        return SimulatedDevice(0)
    import torch

    from darkroom.inference.sdxl import SdxlDevice

    torch.set_num_threads(1)
    tiny: TinyModel = request.getfixturevalue("tiny")
    return SdxlDevice(tiny.path, tiny.controlnet_path, cpu_threads=1)


def finished(device: Device[Any], rows: Sequence[Any]) -> tuple[RenderedImage, ...]:
    """The rows' pictures, where each of them has one."""
    images = device.finish(rows)
    return tuple(image for image in images if _is_picture(image))


def _is_picture(image: RenderedImage | RenderFault) -> TypeGuard[RenderedImage]:
    assert isinstance(image, RenderedImage), image
    return True


def opened(image: RenderedImage) -> Image.Image:
    picture = Image.open(io.BytesIO(image.content))
    picture.load()
    return picture


def difference(one: RenderedImage, other: RenderedImage) -> int:
    """The largest difference in any channel of any pixel, of 255."""
    both = ImageChops.difference(opened(one).convert("RGB"), opened(other).convert("RGB"))
    return max(high for _, high in both.getextrema())  # type: ignore[misc]


SAME = 1
"""A device may add its sums in another order in another batch: a value can then round the other way."""
