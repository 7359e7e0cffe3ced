"""Proves that an `AutoencoderTiny` decodes as it does in diffusers' pipeline, and that plan and previews know it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from darkroom.inference.planning.memory_model import DECODE_MARGIN, decode_bytes
from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.sdxl.finish.projection import fit_projection
from darkroom.inference.sdxl.loading.placement import model_size
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import ModelError
from tests.inference.live_bytes import peak_bytes
from tests.inference.painting import PLAIN, POSED, TOLERANCE, Oracle, distance, load, paint, prepare, variant

pytestmark = pytest.mark.render

_DIFFUSERS: Any = diffusers
TAESDXL: dict[str, Any] = {
    "_class_name": "AutoencoderTiny",
    "_diffusers_version": "0.20.0.dev0",
    "act_fn": "relu",
    "decoder_block_out_channels": [64, 64, 64, 64],
    "encoder_block_out_channels": [64, 64, 64, 64],
    "force_upcast": False,
    "in_channels": 3,
    "latent_channels": 4,
    "latent_magnitude": 3,
    "latent_shift": 0.5,
    "num_decoder_blocks": [3, 3, 3, 1],
    "num_encoder_blocks": [1, 3, 3, 3],
    "out_channels": 3,
    "scaling_factor": 1.0,
    "upsampling_scaling_factor": 2,
}
"""What TAESDXL's configuration says; diffusers adds `block_out_channels` when it saves one itself."""


def write_vae(folder: Path, **changes: Any) -> Path:
    """Write a tiny autoencoder with random weights as its author published one, and return the folder."""
    torch.manual_seed(7)
    settings = TAESDXL | changes
    vae = _DIFFUSERS.AutoencoderTiny(**{name: one for name, one in settings.items() if not name.startswith("_")})
    with torch.no_grad():
        vae.decoder.layers[-1].weight.mul_(6.0)
    vae.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vae(tmp_path_factory.mktemp("taesdxl"))


@pytest.fixture(scope="module")
def with_it(tiny: TinyModel, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """The tiny model with the tiny autoencoder as its own, in a folder as diffusers saves it."""
    folder = tmp_path_factory.mktemp("model")
    model = variant(tiny, folder, {"model/model_index.json": {"vae": ["diffusers", "AutoencoderTiny"]}})
    shutil.rmtree(model.path / "vae")
    shutil.copytree(vae, model.path / "vae")
    return model


def by_path(tiny: TinyModel, vae: Path) -> SdxlDevice:
    files = ModelFiles(tiny.path, tiny.controlnet_path, vae_path=vae)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    return device


@pytest.mark.parametrize("form", ["a folder", "a file with its configuration", "the model's own"])
def test_a_picture_is_the_pipelines(tiny: TinyModel, with_it: TinyModel, vae: Path, form: str) -> None:
    oracle = Oracle(with_it.path, with_it.controlnet_path)
    file = vae / "diffusion_pytorch_model.safetensors"
    device = load(with_it) if form == "the model's own" else by_path(tiny, vae if form == "a folder" else file)
    assert type(device._loaded().components.vae).__name__ == "AutoencoderTiny"
    for request in (PLAIN, replace(POSED, width=104, height=72)):
        picture = paint(device, request)
        assert distance(picture, oracle.paint(request)) <= TOLERANCE
        assert float(picture.std()) > 5, "the picture shows something"
    device.close()


def test_tiles_are_diffusers_own(with_it: TinyModel) -> None:
    oracle = Oracle(with_it.path, with_it.controlnet_path)
    oracle.plain.vae.enable_tiling()
    plain = load(with_it)
    tiled = load(with_it, plan=replace(plain.plan, vae_tiled_above_pixels=64 * 64))
    large = replace(PLAIN, width=576, height=64, steps=1)
    assert distance(paint(tiled, large), oracle.paint(large)) <= TOLERANCE
    assert distance(paint(tiled, PLAIN), paint(plain, PLAIN)) == 0


def test_it_is_another_revision_and_stays_in_half_precision(tiny: TinyModel, with_it: TinyModel, vae: Path) -> None:
    own, tiny_one = load(tiny), by_path(tiny, vae)
    assert own.info.revision != tiny_one.info.revision
    assert (tiny_one.info.latent_factor, tiny_one.info.native_width) == (8, 64)
    half = load(with_it, dtype="float16")
    assert half._loaded().components.vae.dtype is torch.float16, "it does not overflow"


def test_the_plan_reckons_with_what_it_takes(tiny: TinyModel, vae: Path) -> None:
    folders = {part: tiny.path / part for part in ("unet", "text_encoder", "text_encoder_2")}
    size = model_size({**folders, "vae": vae})
    assert (size.vae_channels, size.latent_factor, size.tile_pixels, size.vae_overflows) == (64, 8, 512 * 512, False)
    with torch.device("meta"):
        network = _DIFFUSERS.AutoencoderTiny.from_config(TAESDXL).eval()
    latents = torch.empty(1, 4, 128, 128, device="meta")
    peak = peak_bytes(lambda: network.decode(latents, return_dict=False), [network])
    planned = decode_bytes(size, "float32", 1024 * 1024)
    assert peak < planned / DECODE_MARGIN * 1.1
    own = model_size({**folders, "vae": tiny.path / "vae"})
    assert decode_bytes(replace(own, vae_channels=128), "float32", 1024 * 1024) > 1.9 * planned


def test_previews_are_fitted_to_it(tiny: TinyModel, vae: Path) -> None:
    device = by_path(tiny, vae)
    rows = prepare(device, PLAIN)
    device.step(rows)
    projection = fit_projection(device._loaded().components.vae, device=torch.device("cpu"))
    picture = projection.picture(rows[0].latents)
    assert picture is not None
    assert picture.size == (8, 8)
    device.close()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"latent_channels": 16}, "takes latents of 4 channels and its VAE has 16"),
        (
            {"decoder_block_out_channels": [64, 64, 64], "num_decoder_blocks": [3, 3, 1]},
            "VAE reduces pictures 4 times",
        ),
    ],
)
def test_one_of_another_family_is_refused(tiny: TinyModel, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        by_path(tiny, write_vae(tmp_path / "vae", **changes))


def test_a_file_without_its_configuration_is_refused(tiny: TinyModel, vae: Path, tmp_path: Path) -> None:
    shutil.copy(vae / "diffusion_pytorch_model.safetensors", tmp_path / "taesdxl.safetensors")
    with pytest.raises(ModelError, match=r"a tiny autoencoder without its configuration; put the config.json"):
        by_path(tiny, tmp_path / "taesdxl.safetensors")
