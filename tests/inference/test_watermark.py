"""Proves on pictures of the tiny model that the watermark outlives what pages do to pictures, is hardly there, and is
never seen where it is not.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from darkroom.consumer.cli.provenance import detect
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.worker.intake import Intake
from darkroom.consumer.worker.ports import Record
from darkroom.inference.resolve import resolve
from darkroom.inference.sdxl.device import SdxlDevice
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.inference.tiny import ensure_tiny_model
from darkroom.inference.types import RenderedImage, RenderJob, RenderRequest
from darkroom.inference.watermark import SCORE_MIN, PictureUnsuitable, look_for_mark, marked
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import LimitSettings
from darkroom.schemas.wire.digests import render_digest
from tests.producer.examples import NOON

PROMPTS = ("a red dancer", "a figure in a green field", "a dark night")
PSNR_DB_MIN = 41.0


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(picture: Image.Image, quality: int = 80) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(io.BytesIO(buffer.getvalue()))


def half(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)


def cropped(picture: Image.Image) -> Image.Image:
    """Take a tenth off each side length, unevenly."""
    width, height = picture.size
    return picture.crop((width // 30, height // 15, width // 30 + width * 9 // 10, height // 15 + height * 9 // 10))


ATTACKS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "nothing": lambda picture: picture,
    "JPEG 80": jpeg,
    "half": half,
    "crop of a tenth": cropped,
    "half, then JPEG 80": lambda picture: jpeg(half(picture)),
    "crop, then JPEG 80": lambda picture: jpeg(cropped(picture)),
    "70%": lambda picture: picture.resize((picture.width * 7 // 10, picture.height * 7 // 10)),
}


@pytest.fixture(scope="module")
def device() -> Iterator[SdxlDevice]:
    tiny = ensure_tiny_model()
    made = SdxlDevice(tiny.path, tiny.controlnet_path, name=tiny.name, device="cpu", cpu_threads=1)
    made.load()
    yield made
    made.close()


def request(device: SdxlDevice, prompt: str, *, watermark: bool, side: int = 320) -> RenderRequest:
    asked = GenerationRequest(request_id="r", prompt=prompt, seed=5, steps=6, width=side, height=side)
    return resolve(asked, device.info, LimitSettings(), watermark=watermark)


def paint(device: SdxlDevice, asked: RenderRequest) -> RenderedImage:
    rows = device.prepare(RenderJob("job", asked)).rows
    for _ in range(asked.calls):
        device.step(rows)
    [image] = device.finish(rows)
    assert isinstance(image, RenderedImage)
    return image


@pytest.fixture(scope="module")
def pairs(device: SdxlDevice) -> list[tuple[Image.Image, Image.Image]]:
    """The same pictures without the mark and with it."""
    found = []
    for prompt in PROMPTS:
        plain, mark = (paint(device, request(device, prompt, watermark=on)) for on in (False, True))
        found.append((Image.open(io.BytesIO(plain.content)), Image.open(io.BytesIO(mark.content))))
    return found


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_mark_outlives(pairs: list[tuple[Image.Image, Image.Image]], attack: str) -> None:
    for plain, mark in pairs:
        found = look_for_mark(png(ATTACKS[attack](mark).convert("RGB")))
        assert found.is_marked, found
        assert not look_for_mark(png(ATTACKS[attack](plain).convert("RGB"))).is_marked


def test_the_mark_is_hardly_there(pairs: list[tuple[Image.Image, Image.Image]]) -> None:
    for plain, mark in pairs:
        before, after = (np.asarray(picture, np.float64) for picture in (plain, mark))
        assert 10 * np.log10(255**2 / np.mean((before - after) ** 2)) > PSNR_DB_MIN
        assert np.abs(before - after).max() <= 12


def test_the_same_picture_is_marked_the_same_and_rows_beside_it_are_not_touched(device: SdxlDevice) -> None:
    marks, plain = (request(device, PROMPTS[0], watermark=on) for on in (True, False))
    rows = [*device.prepare(RenderJob("a", marks)).rows, *device.prepare(RenderJob("b", plain)).rows]
    for _ in range(marks.calls):
        device.step(rows)
    first, second = device.finish(rows)
    assert isinstance(first, RenderedImage)
    assert isinstance(second, RenderedImage)
    levels = np.asarray(Image.open(io.BytesIO(second.content)))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(first.content))), marked(levels))


@pytest.mark.parametrize("kind", ["noise", "grey", "stripes", "wallpaper of 64 pixels"])
def test_no_other_picture_is_taken_for_a_marked_one(kind: str) -> None:
    random = np.random.default_rng(3)
    levels = {
        "noise": random.integers(0, 256, (384, 512, 3), np.uint8),
        "grey": np.full((384, 512, 3), 127, np.uint8),
        "stripes": np.tile(np.repeat(np.uint8([0, 255]), 8)[None, :, None], (384, 32, 3)),
        "wallpaper of 64 pixels": np.tile(random.integers(0, 256, (64, 64, 3), np.uint8), (6, 8, 1)),
    }[kind]
    found = look_for_mark(png(Image.fromarray(levels)))
    assert not found.is_marked
    assert found.score < SCORE_MIN - 0.5


def test_a_small_picture_has_no_mark_and_its_completion_will_say_so() -> None:
    levels = np.zeros((255, 400, 3), np.uint8)
    assert marked(levels) is levels
    info = SimulatedDevice(0.0).info
    asked = GenerationRequest(request_id="r", prompt="a dancer")
    small, large = (replace(info, native_width=side, native_height=side) for side in (248, 256))
    assert not resolve(asked, small, LimitSettings(), watermark=True).watermark
    assert resolve(asked, large, LimitSettings(), watermark=True).watermark
    record = Record(0, None, b'{"request_id": "r", "prompt": "a dancer"}', (), int(NOON.timestamp() * 1000))
    for loaded, warned in ((small, True), (large, False)):
        intake = Intake(lambda loaded=loaded: loaded, LimitSettings(), request_bytes_max=1 << 20, watermark=True)
        _, received = intake.take(PartitionKey("requests", 0), record, now=0.0, wall=NOON)
        assert any("no watermark" in one for one in received.warnings) is warned


def test_a_marked_picture_has_another_render_digest_and_an_unmarked_one_the_old() -> None:
    asked = GenerationRequest(request_id="r", prompt="a dancer")
    old = render_digest(asked, "revision", "2")
    assert render_digest(asked, "revision", "2", watermark=None) == old
    assert render_digest(asked, "revision", "2", watermark="tiles-1") != old


def test_the_command_says_whether_the_mark_is_there(
    pairs: list[tuple[Image.Image, Image.Image]], tmp_path: Path
) -> None:
    plain, mark = pairs[0]
    plain.save(tmp_path / "plain.png")
    mark.convert("RGB").save(tmp_path / "mark.jpg", quality=80)
    (tmp_path / "text.png").write_bytes(b"no picture")
    found = CliRunner().invoke(detect, [str(tmp_path / "mark.jpg"), "--json"])
    assert (found.exit_code, json.loads(found.stdout)["marked"]) == (0, True)
    missing = CliRunner().invoke(detect, [str(tmp_path / "plain.png")])
    assert (missing.exit_code, "no watermark of Darkroom's was found" in missing.stdout) == (1, True)
    unreadable = CliRunner().invoke(detect, [str(tmp_path / "text.png")])
    assert unreadable.exit_code == 1
    assert "no PNG, JPEG or WebP picture" in unreadable.output
    with pytest.raises(PictureUnsuitable):
        look_for_mark(png(plain)[:2000])
