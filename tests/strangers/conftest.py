"""The S3 servers and the model that tests of this folder run on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.strangers.second_store import minio_server, moto_server

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack
    from darkroom.inference.sdxl import SdxlDevice
    from darkroom.inference.tiny import TinyModel
    from tests.strangers.lora_files import Networks


class Place(NamedTuple):
    """A server, and the variables that reach it."""

    name: str
    environment: dict[str, str]


@pytest.fixture(scope="module", params=["seaweedfs", "moto", pytest.param("minio", marks=pytest.mark.proof)])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The embedded server, a second one, and in `make proofs` a third."""
    if request.param == "seaweedfs":
        stack: Stack = request.getfixturevalue("stack")
        yield Place("seaweedfs", dict(stack.environment))
        return
    start = moto_server if request.param == "moto" else minio_server
    with start(tmp_path_factory.mktemp(request.param)) as environment:
        yield Place(request.param, environment)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    from darkroom.inference.tiny import ensure_tiny_model

    return ensure_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def device(tiny: TinyModel) -> Iterator[SdxlDevice]:
    from tests.inference.painting import load

    device = load(tiny)
    yield device
    device.close()


@pytest.fixture(scope="module")
def networks(device: SdxlDevice) -> Networks:
    components = device._loaded().components
    first, second = components.text_encoders
    return {"unet": components.unet, "text_encoder": first, "text_encoder_2": second}
