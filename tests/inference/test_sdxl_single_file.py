"""Proves that a checkpoint, a VAE and a ControlNet in a single file are the same model as their folders."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import ModelError
from tests.inference.checkpoints import Tensors, vae_tensors, write_checkpoint
from tests.inference.painting import PLAIN, POSED, TOLERANCE, Oracle, distance, load, paint, variant

pytestmark = pytest.mark.render

VISIBLE = 8


def loaded(files: ModelFiles, dtype: str = "float32") -> SdxlDevice:
    device = SdxlDevice(lambda: files, device="cpu", dtype=dtype, cpu_threads=1)  # type: ignore[arg-type]
    device.load()
    return device


@pytest.fixture(scope="module")
def configs(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder without weights."""
    folder = tmp_path_factory.mktemp("configs") / "model"
    shutil.copytree(tiny.path, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("checkpoint") / "tiny-xl.safetensors"
    write_checkpoint(tiny.path, file)
    return file


def test_a_checkpoint_paints_what_its_folder_paints(
    tiny: TinyModel, checkpoint: Path, configs: Path, shared_device: SdxlDevice
) -> None:
    asked: list[str] = []
    listening = True

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen"):
            asked.append(f"{event} {arguments}")

    sys.addaudithook(listen)
    try:
        device = loaded(ModelFiles(checkpoint, tiny.controlnet_path, config_path=configs))
    finally:
        listening = False
    assert asked == [], "loading asks no network"
    for request in (PLAIN, POSED):
        assert distance(paint(device, request), paint(shared_device, request)) == 0
    assert (device.info.name, device.info.path) == ("tiny-xl", str(checkpoint))
    assert device.info.revision != shared_device.info.revision, "other bytes"


def test_configurations_may_lie_beside_the_checkpoint(checkpoint: Path, configs: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="DARKROOM_MODEL__CONFIG_PATH"):
        loaded(ModelFiles(checkpoint))
    shutil.copytree(configs, tmp_path / "beside")
    os.link(checkpoint, tmp_path / "beside" / "xl.safetensors")
    beside, apart = (
        loaded(files).info.revision
        for files in (
            ModelFiles(tmp_path / "beside" / "xl.safetensors"),
            ModelFiles(checkpoint, config_path=configs),
        )
    )
    assert beside == apart, "the same bytes"


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1000)


def rewritten(change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    def do(file: Path) -> None:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return do


def without(*starts: str) -> Callable[[Path], None]:
    def change(tensors: Tensors) -> None:
        for key in [key for key in tensors if key.startswith(starts)]:
            del tensors[key]

    return rewritten(change)


def as_stable_diffusion_1(tensors: Tensors) -> None:
    for key in list(tensors):
        if key.startswith("conditioner.embedders."):
            value = tensors.pop(key)
            if ".0." in key[:24]:
                tensors[key.replace("conditioner.embedders.0.", "cond_stage_model.")] = value


_BLOCK = "model.diffusion_model.middle_block.1.transformer_blocks"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn": (cut, "torn"),
    "no safetensors": (lambda file: file.write_bytes(b"PK\x03\x04" * 20), "torn"),
    "of Stable Diffusion 1": (rewritten(as_stable_diffusion_1), "Stable Diffusion 1"),
    "without a VAE": (without("first_stage_model."), "lacks vae"),
    "without a tensor of the UNet": (without("model.diffusion_model.out.2.weight"), "conv_out.weight"),
    "without a tensor of the VAE": (without("first_stage_model.decoder.conv_in.bias"), "decoder.conv_in.bias"),
    "without a tensor of an encoder": (without("conditioner.embedders.1.model.ln_final.bias"), "final_layer_norm"),
    "of another width": (
        rewritten(lambda tensors: tensors.update({"model.diffusion_model.out.2.weight": torch.zeros(4, 320, 3, 3)})),
        "misshapen, the first is conv_out.weight",
    ),
    "of more layers than the configuration": (
        rewritten(lambda tensors: tensors.update({f"{_BLOCK}.7.norm1.weight": torch.ones(64)})),
        "too many",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_checkpoint_is_one_clear_sentence(checkpoint: Path, configs: Path, tmp_path: Path, name: str) -> None:
    damage, says = BAD[name]
    file = tmp_path / "bad.safetensors"
    shutil.copy(checkpoint, file)
    damage(file)
    with pytest.raises(ModelError) as caught:
        loaded(ModelFiles(file, config_path=configs))
    message = str(caught.value)
    assert says in message
    assert str(file) in message
    assert "\n" not in message
    assert message.endswith(".")


def test_what_cannot_be_a_model_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"whatever")
    with pytest.raises(ModelError, match="can run code"):
        loaded(ModelFiles(pickled))
    with pytest.raises(ModelError, match="is not there"):
        loaded(ModelFiles(tmp_path / "nowhere"))
    unet = tiny.path / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ModelError, match="one network in diffusers' layout"):
        loaded(ModelFiles(unet, config_path=tiny.path))


# --- A VAE and a ControlNet of their own ----------------------------------------------------------------


def other_vae(tiny: TinyModel, folder: Path, **changes: object) -> Path:
    """A VAE that paints other colours."""
    shutil.copytree(tiny.path / "vae", folder)
    file = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["decoder.conv_out.bias"] += 0.4
    save_file(tensors, file)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    return folder


def test_a_vae_of_its_own_takes_the_models_place(tiny: TinyModel, tmp_path: Path, shared_device: SdxlDevice) -> None:
    folder = other_vae(tiny, tmp_path / "vae", force_upcast=False)
    device = loaded(ModelFiles(tiny.path, vae_path=folder))
    model = variant(tiny, tmp_path, {})
    shutil.rmtree(model.path / "vae")
    shutil.copytree(folder, model.path / "vae")
    painted = paint(device, PLAIN)
    assert distance(painted, Oracle(model.path, model.controlnet_path).paint(PLAIN)) <= TOLERANCE
    assert distance(painted, paint(shared_device, PLAIN)) > VISIBLE
    assert device.info.revision == load(TinyModel("whole", model.path, None)).info.revision  # type: ignore[arg-type]
    assert device.info.revision != loaded(ModelFiles(tiny.path)).info.revision


@pytest.mark.parametrize("is_original", [True, False])
def test_a_vae_in_a_single_file(tiny: TinyModel, tmp_path: Path, is_original: bool) -> None:
    folder = other_vae(tiny, tmp_path / "vae")
    file = tmp_path / "vae.safetensors"
    if is_original:
        save_file({name: value.contiguous() for name, value in vae_tensors(folder).items()}, file)
    else:
        shutil.copy(folder / "diffusion_pytorch_model.safetensors", file)
    single, whole = (loaded(ModelFiles(tiny.path, vae_path=path)) for path in (file, folder))
    assert distance(paint(single, PLAIN), paint(whole, PLAIN)) == 0


def test_a_vae_that_is_safe_in_fp16_stays_in_fp16(tiny: TinyModel, tmp_path: Path) -> None:
    safe = other_vae(tiny, tmp_path / "safe", force_upcast=False)
    for vae_path, dtype in ((safe, torch.float16), (None, torch.float32)):
        device = loaded(ModelFiles(tiny.path, vae_path=vae_path), "float16")
        assert device._loaded().components.vae.dtype is dtype


def test_a_vae_of_another_family_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    import diffusers

    config = json.loads((tiny.path / "vae" / "config.json").read_text()) | {"latent_channels": 16}
    vae = diffusers.AutoencoderKL.from_config(config)  # type: ignore[attr-defined]
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(ModelError, match="takes latents of 4 channels and its VAE has 16") as caught:
        loaded(ModelFiles(tiny.path, vae_path=tmp_path / "vae"))
    assert "\n" not in str(caught.value)


def test_a_controlnet_in_a_single_file(tiny: TinyModel, tmp_path: Path, shared_device: SdxlDevice) -> None:
    file = tmp_path / "openpose.safetensors"
    shutil.copy(tiny.controlnet_path / "diffusion_pytorch_model.safetensors", file)
    with pytest.raises(ModelError, match=r"no config\.json beside it"):
        loaded(ModelFiles(tiny.path, file))
    shutil.copy(tiny.controlnet_path / "config.json", tmp_path / "config.json")
    device = loaded(ModelFiles(tiny.path, file))
    assert distance(paint(device, POSED), paint(shared_device, POSED)) == 0
    assert device.info.revision == shared_device.info.revision
    without("controlnet_mid_block.bias")(file)
    with pytest.raises(ModelError, match=r"controlnet_mid_block\.bias"):
        loaded(ModelFiles(tiny.path, file))
