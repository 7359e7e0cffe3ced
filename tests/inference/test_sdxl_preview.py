"""Proves that previews show where a picture is going, and that looking changes nothing.

The tiny model's random VAE makes colours that no linear map of its latents can tell, so what is claimed of the
projection is proven on a VAE that is nearly linear, as a trained one is.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional

from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.preview import encode_preview
from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.denoise.rows import SdxlRow
from darkroom.inference.sdxl.finish.projection import fit_projection
from darkroom.inference.sdxl.loading.components import load_components
from darkroom.inference.sdxl.loading.sources import ModelFiles
from darkroom.inference.sdxl.model import LoadedModel
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import (
    PREVIEW_BYTES_MAX,
    PREVIEW_SIDE_PX_MAX,
    Preview,
    RenderedImage,
    RenderJob,
    RenderRequest,
)
from tests.inference.painting import PLAIN, POSED

pytestmark = pytest.mark.render

Colours = npt.NDArray[np.float64]


class NearlyLinearVae:
    """Colours follow from the latents under it through a matrix, a bend at the ends, and some texture."""

    dtype = torch.float32

    def __init__(self, texture: float = 0.1) -> None:
        self.config = {"scaling_factor": 0.13025, "latent_channels": 4}
        generator = torch.Generator().manual_seed(4)
        self._matrix = torch.randn(3, 4, generator=generator) * 0.13025 * 0.3
        self._texture = texture * torch.randn(1, 3, 8, 8, generator=generator)

    def decode(self, latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        colours = torch.tanh(torch.einsum("kc,bchw->bkhw", self._matrix, latents))
        large = functional.interpolate(colours, scale_factor=8.0)
        return (large + self._texture.repeat(1, 1, *latents.shape[2:]),)


@pytest.fixture(scope="module")
def model(tiny: TinyModel) -> LoadedModel:
    components = load_components(
        ModelFiles(tiny.path, tiny.controlnet_path), name="tiny", device=torch.device("cpu"), dtype=torch.float32
    )
    return LoadedModel(replace(components, vae=NearlyLinearVae()), 2**20, 2**20, PictureLimits())


@torch.inference_mode()
def denoise(
    model: LoadedModel, request: RenderRequest, look: Callable[[SdxlRow], None], progress: Any = "previews"
) -> SdxlRow:
    row = model.prepare(RenderJob("job", request, progress=progress)).rows[0]
    while row.steps_done < row.steps_total:
        model.stepper.take([row])
        look(row)
    return row


@torch.inference_mode()
def picture(model: LoadedModel, row: SdxlRow) -> bytes:
    image = model.finish([row])[0]
    assert isinstance(image, RenderedImage)
    return image.content


def colours(content: bytes, size: tuple[int, int] | None = None) -> Colours:
    with Image.open(io.BytesIO(content)) as picture:
        small = picture if size is None else picture.resize(size, Image.Resampling.BOX)
        return np.asarray(small.convert("RGB"), dtype=np.float64)


def likeness(one: Colours, other: Colours) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


@pytest.mark.parametrize("request_", [replace(POSED, steps=12), replace(PLAIN, steps=12, width=128, sampler="euler")])
def test_previews_come_to_resemble_the_picture(model: LoadedModel, request_: RenderRequest) -> None:
    previews: list[Preview] = []

    def look(row: SdxlRow) -> None:
        preview = model.preview(row)
        assert preview is not None
        previews.append(preview)

    row = denoise(model, request_, look)
    final = colours(picture(model, row), (request_.width // 8, request_.height // 8))
    seen = [likeness(colours(preview.content), final) for preview in previews]
    assert [preview.steps_done for preview in previews] == list(range(1, 13))
    thirds = [float(np.mean(seen[at : at + 4])) for at in (0, 4, 8)]
    assert thirds == sorted(thirds)
    assert seen[-1] > max(0.9, seen[0] + 0.1), seen
    assert np.abs(colours(previews[-1].content) - final).mean() < 30


def test_there_is_nothing_to_show_before_the_first_step(model: LoadedModel) -> None:
    row = model.prepare(RenderJob("job", PLAIN, progress="previews")).rows[0]
    assert model.preview(row) is None


def test_a_picture_that_was_looked_at_is_the_same_to_the_last_bit(model: LoadedModel) -> None:
    looked: list[Preview | None] = []
    seen = denoise(model, POSED, lambda row: looked.append(model.preview(row)))
    unseen = denoise(model, POSED, lambda row: None, progress="none")
    assert len(looked) == POSED.steps
    assert torch.equal(seen.latents, unseen.latents)
    assert picture(model, seen) == picture(model, unseen)


@pytest.mark.parametrize("progress", ["none", "steps"])
def test_nothing_is_kept_for_jobs_that_did_not_ask(model: LoadedModel, progress: str) -> None:
    row = denoise(model, PLAIN, lambda row: None, progress=progress)
    assert row.predicted is None
    assert model.preview(row) is None


def test_only_the_first_image_of_a_job_is_kept(model: LoadedModel) -> None:
    rows = model.prepare(RenderJob("job", replace(PLAIN, count=3), progress="previews")).rows
    assert [row.wants_preview for row in rows] == [True, False, False]


def test_the_fit_says_how_good_it_is() -> None:
    plain = fit_projection(NearlyLinearVae(texture=0.0), device=torch.device("cpu"))
    again = fit_projection(NearlyLinearVae(texture=0.0), device=torch.device("cpu"))
    assert 0.95 < plain.explained <= 1.0
    assert torch.equal(plain.weights, again.weights)


def test_the_fit_of_a_vae_that_is_not_linear_is_said_to_be_poor(tiny: TinyModel) -> None:
    components = load_components(
        ModelFiles(tiny.path, tiny.controlnet_path), name="tiny", device=torch.device("cpu"), dtype=torch.float32
    )
    with torch.inference_mode():
        assert fit_projection(components.vae, device=torch.device("cpu")).explained < 0.5


def test_latents_that_are_not_finite_have_no_preview() -> None:
    projection = fit_projection(NearlyLinearVae(), device=torch.device("cpu"))
    assert projection.picture(torch.full((1, 4, 8, 8), float("nan"))) is None


@pytest.mark.parametrize(("size", "shown"), [((8, 8), (8, 8)), ((128, 128), (128, 128)), ((512, 100), (128, 25))])
def test_a_preview_is_small_even_where_it_is_noise(size: tuple[int, int], shown: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    content = encode_preview(Image.fromarray(noise))
    assert len(content) <= PREVIEW_BYTES_MAX
    with Image.open(io.BytesIO(content)) as picture:
        assert (picture.format, picture.size) == ("JPEG", shown)
        assert max(picture.size) <= PREVIEW_SIDE_PX_MAX


def test_the_whole_device_makes_previews(shared_device: SdxlDevice) -> None:
    row = shared_device.prepare(RenderJob("job", POSED, progress="previews")).rows[0]
    shared_device.step([row])
    preview = shared_device.preview(row)
    assert isinstance(preview, Preview)
    assert preview.steps_done == 1
    assert colours(preview.content).shape == (8, 8, 3)
