"""Proves what leaves the device: the right file format, the request as text in it, and never a broken picture."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.finish.pictures import decode_latents, encode_picture, vae_dtype
from darkroom.inference.sdxl.loading.vae_kinds import vae_kind
from darkroom.inference.types import FaultKind, RenderFault
from tests.inference.devices import finished
from tests.inference.painting import PLAIN, pixels, prepare

pytestmark = pytest.mark.render

TEXT = {
    "darkroom": '{"prompt":"a red fox"}',
    "seed": "11",
    "Ünïcode 雪".encode().decode("latin-1"): "雪の中の赤い狐 🦊",
}


def painted(device: SdxlDevice, **changes: object) -> bytes:
    rows = prepare(device, replace(PLAIN, steps=1, **changes))  # type: ignore[arg-type]
    device.step(rows)
    return finished(device, rows)[0].content


def test_a_png_carries_the_requests_text_and_nothing_else(shared_device: SdxlDevice) -> None:
    with Image.open(io.BytesIO(painted(shared_device, image_text=TEXT))) as picture:
        assert picture.format == "PNG"
        assert picture.size == (64, 64)
        assert picture.mode == "RGB"
        picture.load()
        assert picture.info == TEXT


def test_a_replay_gives_the_same_bytes(shared_device: SdxlDevice) -> None:
    first, again = (painted(shared_device, image_text=TEXT) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("image_format", "content_type", "extension", "magic"),
    [
        ("png", "image/png", "png", b"\x89PNG"),
        ("webp", "image/webp", "webp", b"RIFF"),
        ("jpeg", "image/jpeg", "jpg", b"\xff\xd8\xff"),
    ],
)
def test_each_format_is_what_it_says(
    shared_device: SdxlDevice, image_format: str, content_type: str, extension: str, magic: bytes
) -> None:
    rows = prepare(shared_device, replace(PLAIN, steps=1, width=128, image_format=image_format))
    shared_device.step(rows)
    (image,) = finished(shared_device, rows)
    assert image.content.startswith(magic)
    assert (image.content_type, image.extension) == (content_type, extension)
    assert (image.width, image.height, image.seed) == (128, 64, 11)
    assert pixels(image).shape == (64, 128, 3)


@pytest.mark.parametrize(("image_format", "tolerance"), [("png", 0.0), ("webp", 3.0), ("jpeg", 3.0)])
def test_each_format_keeps_the_picture(image_format: str, tolerance: float) -> None:
    across = np.linspace(0, 255, 64, dtype=np.uint8)
    levels = np.stack([np.tile(across, (64, 1)), np.tile(across[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], 2)
    image = encode_picture(Image.fromarray(levels), image_format=image_format, quality=95, seed=1, text=TEXT)
    assert float(np.abs(pixels(image) - levels).mean()) <= tolerance


def test_quality_is_the_files_quality() -> None:
    draw = np.random.default_rng(1)
    picture = Image.fromarray(draw.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for image_format in ("webp", "jpeg"):
        small, large = (
            len(encode_picture(picture, image_format=image_format, quality=quality, seed=1, text={}).content)
            for quality in (20, 95)
        )
        assert small < large / 2


def test_an_unknown_format_is_the_requests_fault() -> None:
    with pytest.raises(RenderFault, match="png, webp, jpeg") as caught:
        encode_picture(Image.new("RGB", (8, 8)), image_format="gif", quality=90, seed=1, text={})
    assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "invalid_request")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_fails_the_picture(shared_device: SdxlDevice, value: float) -> None:
    rows = prepare(shared_device, PLAIN)
    rows[0].latents = rows[0].latents.clone()
    rows[0].latents[0, 1, 3, 3] = value
    (fault,) = shared_device.finish(rows)
    assert isinstance(fault, RenderFault)
    assert (fault.kind, fault.code) == (FaultKind.REQUEST, "render_failed")


class FakeVae:
    """A VAE that gives what it is told to, in the place of one whose numbers overflow."""

    def __init__(self, picture: torch.Tensor) -> None:
        self.dtype = torch.float32
        self.config = {"scaling_factor": 0.5}
        self.seen: torch.Tensor | None = None
        self._picture = picture

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        self.seen = latents
        return (self._picture,)


def test_infinity_from_the_vae_is_not_taken_for_white() -> None:
    picture = torch.zeros(1, 3, 8, 8)
    picture[0, 0, 0, 0] = float("inf")
    (fault,) = decode_latents(FakeVae(picture), torch.zeros(1, 4, 1, 1))
    assert isinstance(fault, RenderFault)
    assert fault.code == "render_failed"


def test_levels_are_unscaled_clamped_and_rounded() -> None:
    wanted = [-7.0, 0.0, 127.4, 127.5, 127.6, 255.0, 300.0]
    picture = (torch.tensor(wanted) / 127.5 - 1).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    vae = FakeVae(picture)
    levels = np.asarray(decode_latents(vae, torch.ones(1, 4, 1, 1))[0])
    assert levels[0, :, 0].tolist() == [0, 0, 127, 128, 128, 255, 255]
    assert vae.seen is not None
    assert vae.seen[0, 0, 0, 0] == 2.0, "a scaling factor of 0.5 is undone"


def test_a_vae_that_overflows_in_fp16_is_kept_in_fp32() -> None:
    levels = {"block_out_channels": [128, 256, 512, 512]}
    assert vae_kind(levels | {"force_upcast": True}).overflows
    assert vae_kind(levels).overflows
    assert not vae_kind(levels | {"force_upcast": False}).overflows
    assert vae_dtype(torch.float16, overflows=True) is torch.float32
    assert vae_dtype(torch.float16, overflows=False) is torch.float16
    assert vae_dtype(torch.bfloat16, overflows=True) is torch.bfloat16
    assert vae_dtype(torch.float32, overflows=True) is torch.float32
