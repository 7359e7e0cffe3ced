"""Proves that a model is loaded whole or not at all, from this machine alone, and known by its bytes."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.loading.revision import find_weights
from darkroom.inference.tiny import TinyModel
from darkroom.inference.types import ModelError
from tests.inference.painting import load, variant

pytestmark = pytest.mark.render

UNET = "model/unet/diffusion_pytorch_model.safetensors"


def damaged(tiny: TinyModel, folder: Path, name: str, damage: Callable[[Path], object]) -> TinyModel:
    """The tiny model with one file damaged. The files are links: the damage is done to a copy."""
    model = variant(tiny, folder, {})
    file = model.path.parent / name
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    damage(file)
    return model


def cut_in_half(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def drop_one_tensor(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    del tensors[sorted(tensors)[0]]
    save_file(tensors, file, metadata={"format": "pt"})


def reshape_one_tensor(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name] = torch.zeros(*tensors[name].shape, 2)
    save_file(tensors, file, metadata={"format": "pt"})


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "torn UNet": (UNET, cut_in_half),
    "empty UNet": (UNET, lambda file: file.write_bytes(b"")),
    "a missing tensor in the UNet": (UNET, drop_one_tensor),
    "a missing tensor in the VAE": ("model/vae/diffusion_pytorch_model.safetensors", drop_one_tensor),
    "a missing tensor in a text encoder": ("model/text_encoder_2/model.safetensors", drop_one_tensor),
    "a missing tensor in the ControlNet": ("controlnet/diffusion_pytorch_model.safetensors", drop_one_tensor),
    "a tensor of another shape in the UNet": (UNET, reshape_one_tensor),
    "a tensor of another shape in a text encoder": ("model/text_encoder/model.safetensors", reshape_one_tensor),
    "torn text encoder": ("model/text_encoder/model.safetensors", cut_in_half),
    "no weights": (UNET, lambda file: file.unlink()),
    "torn index": ("model/model_index.json", cut_in_half),
    "no index": ("model/model_index.json", lambda file: file.unlink()),
    "an index that is a list": ("model/model_index.json", lambda file: file.write_text("[]")),
    "torn UNet settings": ("model/unet/config.json", cut_in_half),
    "no UNet settings": ("model/unet/config.json", lambda file: file.unlink()),
    "torn tokenizer": ("model/tokenizer/tokenizer.json", cut_in_half),
    "torn scheduler": ("model/scheduler/scheduler_config.json", cut_in_half),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_model_is_one_clear_sentence(tiny: TinyModel, tmp_path: Path, name: str) -> None:
    file, damage = DAMAGE[name]
    model = damaged(tiny, tmp_path, file, damage)
    with pytest.raises(ModelError) as caught:
        load(model)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    assert str((model.path.parent / file).parent) in message, "the sentence names the place"


MISFITS: dict[str, tuple[str, dict[str, object]]] = {
    "global_pool_conditions": ("controlnet/config.json", {"global_pool_conditions": True}),
    "prediction_type": ("model/scheduler/scheduler_config.json", {"prediction_type": "sample"}),
    "no scheduler": ("model/scheduler/scheduler_config.json", {"_class_name": "AutoencoderKL"}),
    "scheduler of no library": ("model/scheduler/scheduler_config.json", {"_class_name": "NoSuchScheduler"}),
}


@pytest.mark.parametrize("name", MISFITS)
def test_a_model_that_would_paint_wrongly_is_refused(tiny: TinyModel, tmp_path: Path, name: str) -> None:
    file, values = MISFITS[name]
    with pytest.raises(ModelError) as caught:
        load(variant(tiny, tmp_path, {file: values}))
    if "_" in name:
        assert name in str(caught.value), "the sentence names the setting"


def test_a_model_that_takes_the_guidance_scale_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def take_guidance(file: Path) -> None:
        projection = {"time_embedding.cond_proj.weight": torch.zeros(32, 16)}
        save_file(load_file(file) | projection, file, metadata={"format": "pt"})

    model = damaged(tiny, tmp_path, UNET, take_guidance)
    config = model.path / "unet" / "config.json"
    content = json.loads(config.read_text())
    config.unlink()
    config.write_text(json.dumps(content | {"time_cond_proj_dim": 16}))
    with pytest.raises(ModelError, match="time_cond_proj_dim"):
        load(model)


def test_a_folder_that_is_no_model_is_refused(tiny: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=re.escape(str(tmp_path))):
        SdxlDevice(tmp_path).load()
    with pytest.raises(ModelError, match="no-such-folder"):
        SdxlDevice(tmp_path / "no-such-folder").load()
    with pytest.raises(ModelError, match="no safetensors weights"):
        SdxlDevice(tiny.path, tiny.path / "scheduler").load()
    with pytest.raises(ModelError, match="ControlNetModel"):
        SdxlDevice(tiny.path, tiny.path / "unet").load()


def test_half_an_sdxl_model_is_named_by_what_it_lacks(tiny: TinyModel, tmp_path: Path) -> None:
    model = variant(tiny, tmp_path, {})
    (model.path / "text_encoder_2").rename(model.path / "elsewhere")
    with pytest.raises(ModelError, match="it lacks text_encoder_2:"):
        load(model)


@pytest.mark.parametrize("device", ["cuda:99", "no-such-device"])
def test_a_device_that_is_not_there_is_refused(tiny: TinyModel, device: str) -> None:
    with pytest.raises(ModelError, match=device):
        SdxlDevice(tiny.path, device=device).load()


def test_the_loaded_model_is_described(tiny: TinyModel, shared_device: SdxlDevice) -> None:
    info = shared_device.info
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", info.revision)
    assert (info.name, info.device, info.dtype) == ("tiny", "cpu", "float32")
    assert (info.native_width, info.native_height, info.size_multiple, info.latent_factor) == (64, 64, 8, 8)
    assert (info.path, info.controlnet_path) == (str(tiny.path), str(tiny.controlnet_path))
    assert info.takes_pose
    assert shared_device.memory_bytes() == {}


def test_the_revision_is_of_the_bytes_that_decide_pixels(
    tiny: TinyModel, shared_device: SdxlDevice, tmp_path: Path
) -> None:
    def revision(number: int, changes: dict[str, dict[str, object]]) -> str:
        return load(variant(tiny, tmp_path / str(number), changes)).info.revision

    own = shared_device.info.revision
    assert revision(0, {}) == own, "the same bytes in another folder"
    assert revision(1, {"model/unet/config.json": {"_name_or_path": "/somewhere", "_diffusers_version": "9"}}) == own
    assert revision(2, {"model/scheduler/scheduler_config.json": {"steps_offset": 0}}) != own
    assert revision(3, {"model/model_index.json": {"force_zeros_for_empty_prompt": False}}) != own
    bare = SdxlDevice(tiny.path, device="cpu", cpu_threads=1)
    bare.load()
    assert bare.info.revision != own, "the ControlNet is a part of the model"


def test_other_weights_are_another_revision(tiny: TinyModel, shared_device: SdxlDevice, tmp_path: Path) -> None:
    def flip_the_last_bit(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))

    for number, file in enumerate([UNET, "controlnet/diffusion_pytorch_model.safetensors"]):
        changed = damaged(tiny, tmp_path / str(number), file, flip_the_last_bit)
        assert load(changed).info.revision != shared_device.info.revision


def test_the_fp16_files_are_taken_for_fp16_and_shards_in_their_order(tmp_path: Path) -> None:
    names = [
        "model.safetensors",
        "model.fp16-00002-of-00002.safetensors",
        "model.fp16-00001-of-00002.safetensors",
        "model.non_ema.safetensors",
        "pytorch_model.bin",
    ]
    for name in names:
        (tmp_path / name).touch()
    half, whole = find_weights(tmp_path, torch.float16), find_weights(tmp_path, torch.float32)
    assert (whole.variant, [file.name for file in whole.files]) == (None, ["model.safetensors"])
    assert (half.variant, [file.name for file in half.files]) == ("fp16", [names[2], names[1]])
    (tmp_path / "model.safetensors").unlink()
    assert find_weights(tmp_path, torch.float32).variant == "fp16", "all there is"


def test_loading_asks_no_network_and_draws_no_progress(tiny: TinyModel, capfd: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    listening = True

    def listen(event: str, arguments: tuple[object, ...]) -> None:
        if listening and event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen"):
            asked.append(f"{event} {arguments}")

    # Hooks cannot be taken away again; this one is deaf afterwards.
    sys.addaudithook(listen)
    capfd.readouterr()
    try:
        load(tiny)
    finally:
        listening = False
    assert asked == []
    printed = capfd.readouterr()
    assert "it/s" not in printed.out + printed.err


def test_a_closed_device_can_be_loaded_again(tiny: TinyModel) -> None:
    device = load(tiny)
    revision = device.info.revision
    device.close()
    device.close()
    assert device.cache_counts() == {}
    with pytest.raises(RuntimeError, match="load"):
        device.info  # noqa: B018
    device.load()
    assert device.info.revision == revision
