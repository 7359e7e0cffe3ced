"""The tiny model and what is loaded from it, once a session: loading takes longer than painting. Scripted engines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from darkroom.inference.tiny import TinyModel, ensure_tiny_model
from tests.inference.scripted import ScriptedDevice, Starter, starting

if TYPE_CHECKING:
    from darkroom.inference.sdxl import SdxlDevice
    from tests.inference.painting import Oracle


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return ensure_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def shared_device(tiny: TinyModel) -> Iterator[SdxlDevice]:
    """A loaded device whose caches other tests use, too."""
    import torch

    from tests.inference.painting import load

    torch.set_num_threads(1)
    device = load(tiny)
    yield device
    device.close()


@pytest.fixture(scope="session")
def oracle(tiny: TinyModel) -> Oracle:
    import torch

    from tests.inference.painting import Oracle

    torch.set_num_threads(1)
    return Oracle(tiny.path, tiny.controlnet_path)


@pytest.fixture
def device() -> ScriptedDevice:
    """A device that does as it is told; files that look at another one say so."""
    return ScriptedDevice()


@pytest.fixture
def start(device: ScriptedDevice) -> Iterator[Starter]:
    """Starts engines on that device, and closes them."""
    with starting(device) as starter:
        yield starter
