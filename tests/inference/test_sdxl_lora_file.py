"""What is read from LoRA files, and the sentence for each that cannot be used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from inference.contract import AdapterUse, FaultKind, ModelError, RenderFault
from inference.sdxl import ModelFiles, SdxlDevice
from inference.sdxl.adapter_store import AdapterStore
from inference.sdxl.lora_file import LoraUnusable, parse_lora
from tests.inference import loras
from tests.inference.painting import PLAIN, prepare

pytestmark = pytest.mark.render

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
Networks = dict[str, torch.nn.Module]
ON_CPU = dict.fromkeys(("unet", "text_encoder", "text_encoder_2"), torch.device("cpu"))


@pytest.fixture(scope="module")
def networks(shared_device: SdxlDevice) -> Networks:
    components = shared_device._loaded().components
    first, second = components.text_encoders
    return {"unet": components.unet, "text_encoder": first, "text_encoder_2": second}


@pytest.fixture
def file(tmp_path: Path, networks: Networks) -> Path:
    """A good one."""
    loras.peft_file(tmp_path / "ink.safetensors", loras.Layers(networks, 1), {"unet": [LAYER]})
    return tmp_path / "ink.safetensors"


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def do(file: Path) -> None:
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file)

    return do


def renamed(before: str, after: str) -> Callable[[Path], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            tensors[key.replace(before, after)] = tensors.pop(key)

    return changed(change)


DOWN, UP = f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn": (lambda file: os.truncate(file, file.stat().st_size // 2), "torn"),
    "empty": (lambda file: file.write_bytes(b""), "torn"),
    "of no tensors": (changed(lambda tensors: tensors.clear()), "has no tensors"),
    "a rank that differs": (changed(lambda t: t.update({UP: torch.ones(64, 3)})), "the layer's weight is (64, 64)"),
    "another width": (changed(lambda t: t.update({DOWN: torch.ones(4, 320)})), "(4, 320)"),
    "another model's layers": (renamed("transformer_blocks.0", "transformer_blocks.9"), "transformer_blocks.9"),
    "half of a layer": (changed(lambda t: t.pop(UP)), "half of"),
    "not finite": (changed(lambda t: t[UP].fill_(float("nan"))), "not finite"),
    "a whole network": (renamed("lora_A.", ""), "half of"),
    "another part": (renamed("unet.", "transformer."), "belongs to none of"),
    "a DoRA": (changed(lambda t: t.update({f"unet.{LAYER}.dora_scale": torch.ones(64)})), "a DoRA"),
    "a LoKr": (renamed("lora_A", "lokr_w1"), "a LoKr"),
    "a LoHa": (renamed("lora_A", "hada_w1_a"), "a LoHa"),
    "a bias": (changed(lambda t: t.update({f"unet.{LAYER}.lora_B.bias": torch.ones(64)})), "lora_B.bias"),
    "kohya's names of nothing": (renamed("unet.", "lora_unet_"), "SDXL"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_adapter_is_one_clear_sentence(file: Path, networks: Networks, name: str) -> None:
    damage, says = BAD[name]
    damage(file)
    with pytest.raises(ModelError) as caught:
        AdapterStore(file.parent, networks, ON_CPU)
    message = str(caught.value)
    assert says in message
    assert str(file) in message
    assert "\n" not in message
    assert message.endswith(".")


def test_a_folder_that_cannot_be_used(file: Path, networks: Networks) -> None:
    with pytest.raises(ModelError, match="DARKROOM_MODEL__ADAPTERS_PATH"):
        AdapterStore(file.parent / "nowhere", networks, ON_CPU)
    with pytest.raises(ModelError, match="DARKROOM_LIMITS__ADAPTER_CACHE_BYTES"):
        AdapterStore(file.parent, networks, ON_CPU, cache_bytes_max=100)
    (file.parent / "README.md").write_text("not looked at")
    (file.parent / ".half.safetensors").write_text("not looked at")
    assert list(AdapterStore(file.parent, networks, ON_CPU).digests) == ["ink"]
    file.rename(file.parent / "no name.safetensors")
    with pytest.raises(ModelError, match="no request can have"):
        AdapterStore(file.parent, networks, ON_CPU)


def test_a_file_that_was_changed_is_not_applied_under_its_old_name(file: Path, networks: Networks) -> None:
    store = AdapterStore(file.parent, networks, ON_CPU)
    content = file.read_bytes()

    def fault(name: str = "ink") -> RenderFault:
        with pytest.raises(RenderFault) as caught:
            store.get(AdapterUse(name, 1.0))
        assert caught.value.kind is FaultKind.REQUEST
        return caught.value

    loras.peft_file(file, loras.Layers(networks, 2), {"unet": [LAYER]})
    assert (fault().code, "was changed" in fault().message) == ("model_mismatch", True)
    os.truncate(file, 50)
    assert (fault().code, "torn" in fault().message) == ("model_mismatch", True)
    file.unlink()
    assert (fault().code, str(file) in fault().message) == ("model_mismatch", True)
    assert fault("oil").code == "unknown_adapter"
    file.write_bytes(content)
    assert store.get(AdapterUse("ink", 1.0)).digest == store.digests["ink"]


def test_a_bad_adapter_ends_the_start(file: Path, shared_device: SdxlDevice) -> None:
    os.truncate(file, 50)
    path = Path(shared_device.info.path or "")
    files = ModelFiles(path, adapters_path=file.parent)
    with pytest.raises(ModelError, match=r"ink\.safetensors is torn"):
        SdxlDevice(lambda: files, device="cpu", cpu_threads=1).load()


def test_an_adapter_the_device_does_not_have_is_the_requests_fault(shared_device: SdxlDevice) -> None:
    with pytest.raises(RenderFault) as caught:
        prepare(shared_device, replace(PLAIN, adapter=AdapterUse("ink", 1.0)))
    assert caught.value.code == "unknown_adapter"


def test_each_layer_has_the_alpha_of_its_own(tmp_path: Path, networks: Networks) -> None:
    """Where alphas differ, diffusers' loader gives attention layers the commonest one; the file says which is whose."""
    file = tmp_path / "kohya.safetensors"
    names = [LAYER, LAYER.replace("attn1.to_q", "ff.net.2"), LAYER.replace("to_q", "to_out.0")]
    loras.kohya_file(file, loras.Layers(networks, 1), names, ["encoder.layers.0.mlp.fc1"], rank=4, alpha=2.0)
    tensors = load_file(file)
    alphas = {key: 2.0 + number for number, key in enumerate(sorted(key for key in tensors if key.endswith("alpha")))}
    save_file(tensors | {key: torch.tensor(alpha) for key, alpha in alphas.items()}, file)
    lora = parse_lora(file, file.read_bytes(), networks)
    scales = {name: layer.scale for layers in lora.layers.values() for name, layer in layers.items()}
    ends = {"fc1": "fc1.alpha", "to_q": "attn1_to_q.alpha", "net.2": "ff_net_2.alpha", "to_out.0": "to_out_0.alpha"}
    assert len(lora.layers["text_encoder"]) == len(lora.layers["text_encoder_2"]) == 1
    for name, layer in lora.layers["unet"].items():
        written = next(end for start, end in ends.items() if name.endswith(start))
        alpha = next(alpha for key, alpha in alphas.items() if key.startswith("lora_unet") and key.endswith(written))
        assert layer.scale == alpha / 4
    assert len(set(scales.values())) >= 3


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 1.0),
        ({"lora_alpha": 8}, 2.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 1}}, 0.25),
        ({"lora_alpha": 8, "alpha_pattern": {"attn2.to_q": 1}}, 2.0),
    ],
)
def test_peft_settings_in_the_header(file: Path, networks: Networks, settings: dict[str, Any], scale: float) -> None:
    header = json.dumps({f"unet.{name}": value for name, value in settings.items()})
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": header})
    layer = parse_lora(file, file.read_bytes(), networks).layers["unet"][LAYER]
    assert layer.scale == scale


def test_a_torn_header_is_told(file: Path, networks: Networks) -> None:
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(LoraUnusable, match="torn"):
        parse_lora(file, file.read_bytes(), networks)
