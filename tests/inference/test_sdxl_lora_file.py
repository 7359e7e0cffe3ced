"""What is read from LoRA files, and the sentence for each that cannot be used."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs

from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.sdxl.loading.lora_file import LoraUnusable, parse_lora
from darkroom.inference.sdxl.loading.lora_names import LayerNames
from darkroom.inference.sdxl.prepare.adapter_store import AdapterStore
from darkroom.inference.types import AdapterUse, FaultKind, ModelError, RenderFault
from darkroom.schemas.events.request import Adapter
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


DOWN, UP, ALPHA = (f"unet.{LAYER}.{end}" for end in ("lora_A.weight", "lora_B.weight", "alpha"))
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "torn": (lambda file: os.truncate(file, file.stat().st_size // 2), "torn"),
    "empty": (lambda file: file.write_bytes(b""), "torn"),
    "of no tensors": (changed(lambda tensors: tensors.clear()), "has no tensors"),
    "a rank that differs": (changed(lambda t: t.update({UP: torch.ones(64, 3)})), "the layer's weight is (64, 64)"),
    "another width": (changed(lambda t: t.update({DOWN: torch.ones(4, 320)})), "(4, 320)"),
    "another model's layers": (renamed("transformer_blocks.0", "transformer_blocks.9"), "transformer_blocks.9"),
    "half of a layer": (changed(lambda t: t.pop(UP)), "half of"),
    "not finite": (changed(lambda t: t[UP].fill_(float("nan"))), "not finite"),
    "an alpha that is not finite": (changed(lambda t: t.update({ALPHA: torch.tensor(float("inf"))})), "not finite"),
    "an alpha of several values": (changed(lambda t: t.update({ALPHA: torch.ones(4)})), "4 values"),
    "whole numbers": (changed(lambda t: t.update({UP: t[UP].to(torch.int8)})), "quantised"),
    "a whole network": (renamed("lora_A.", ""), "is not known"),
    "another part": (renamed("unet.", "transformer."), "a model without a UNet"),
    "two adapters": (
        changed(lambda t: t.update({DOWN.replace("A.", "A.other."): t[DOWN].clone()})),
        "keep one adapter",
    ),
    "kohya's names of nothing": (renamed("unet.", "lora_unet_"), "lora_unet_down_blocks.1"),
    "a middle layer that does not fit": (
        changed(lambda t: t.update({DOWN.replace("lora_A", "lora_mid"): torch.ones(4, 4, 3, 3)})),
        "middle layer",
    ),
}


def refused(folder: Path, networks: Networks, **settings: int) -> dict[str, str]:
    store = AdapterStore(folder, networks, ON_CPU, **settings)
    assert store.digests.keys().isdisjoint(store.refused)
    return dict(store.refused)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_adapter_is_one_clear_sentence_and_the_others_are_offered(
    file: Path, networks: Networks, name: str
) -> None:
    shutil.copy(file, file.with_name("good.safetensors"))
    damage, says = BAD[name]
    damage(file)
    store = AdapterStore(file.parent, networks, ON_CPU)
    assert list(store.digests) == ["good"]
    assert list(store.refused) == ["ink"]
    message = store.refused["ink"]
    assert says in message
    assert file.name in message
    assert str(file.parent) not in message, "requesters read it"
    assert "\n" not in message
    assert message.endswith(".")
    with pytest.raises(RenderFault) as caught:
        store.get(AdapterUse("ink", 1.0))
    assert (caught.value.code, caught.value.message) == ("unknown_adapter", message)


def test_a_folder_that_cannot_be_used(file: Path, networks: Networks) -> None:
    with pytest.raises(ModelError, match="DARKROOM_MODEL__ADAPTERS_PATH"):
        AdapterStore(file.parent / "nowhere", networks, ON_CPU)
    assert "DARKROOM_LIMITS__ADAPTER_CACHE_BYTES" in refused(file.parent, networks, cache_bytes_max=100)["ink"]


def test_what_lies_beside_adapters_is_passed_over(file: Path, networks: Networks) -> None:
    for name in ("README.md", ".half.safetensors", "._ink.safetensors", "adapter_config.json"):
        (file.parent / name).write_text("not looked at")
    shutil.copy(file, file.with_name("ink.ckpt"))
    (file.parent / "styles").mkdir()
    shutil.copy(file, file.parent / "styles" / "deep.safetensors")
    with capture_logs() as logged:
        store = AdapterStore(file.parent, networks, ON_CPU)
    assert (list(store.digests), dict(store.refused)) == (["ink"], {})
    assert [line["folder"] for line in logged if line["event"] == "adapters_in_a_subfolder"] == [
        str(file.parent / "styles")
    ]


def test_names_are_what_files_are_called(file: Path, networks: Networks) -> None:
    names = ["ink drawing (v2)", "Tusche für Übungen", "水墨", "a=b+c@d, e", "Ink"]
    for name in names:
        shutil.copy(file, file.with_name(f"{name}.safetensors"))
    shutil.copy(file, file.with_name("upper.SAFETENSORS"))
    (file.parent / "linked.safetensors").symlink_to(file)
    assert set(AdapterStore(file.parent, networks, ON_CPU).digests) == {*names, "upper", "linked", "ink"}
    for name in names:
        assert Adapter(name=name).name == name, "a request can have it"


def test_a_name_in_the_form_that_macos_writes_is_the_same_name(file: Path, networks: Networks) -> None:
    composed, apart = (unicodedata.normalize(form, "Übung") for form in ("NFC", "NFD"))
    assert composed != apart
    file.rename(file.with_name(f"{apart}.safetensors"))
    store = AdapterStore(file.parent, networks, ON_CPU)
    for name in (composed, apart):
        assert Adapter(name=name).name in store.digests
    shutil.copy(file.with_name(f"{apart}.safetensors"), file.with_name(f"{composed}.safetensors"))
    assert "Two adapter files" in refused(file.parent, networks)[composed]


def test_what_is_no_adapter_file_is_refused_alone(file: Path, networks: Networks) -> None:
    (file.parent / "folder.safetensors").mkdir()
    (file.parent / "lost.safetensors").symlink_to(file.parent / "nowhere")
    os.mkfifo(file.parent / "pipe.safetensors")
    (file.parent / "old.pt").write_bytes(b"PK")
    shutil.copy(file, file.with_name(f"{'n' * 129}.safetensors"))
    shutil.copy(file, file.with_name("two\nlines.safetensors"))
    reasons = refused(file.parent, networks)
    assert set(reasons) == {"folder", "lost", "pipe", "old", "n" * 129, "two\nlines"}
    assert "convert it to safetensors" in reasons["old"]
    assert "no request can have" in reasons["two\nlines"]
    assert all("\n" not in reason for reason in reasons.values())


def test_a_file_that_is_being_changed_is_not_applied_under_its_old_digest(file: Path, networks: Networks) -> None:
    store = AdapterStore(file.parent, networks, ON_CPU)
    content = file.read_bytes()

    def fault(name: str = "ink") -> str:
        with pytest.raises(RenderFault) as caught:
            store.get(AdapterUse(name, 1.0))
        assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, "unknown_adapter")
        return caught.value.message

    loras.peft_file(file.with_name(".new"), loras.Layers(networks, 2), {"unet": [LAYER]})
    file.write_bytes(file.with_name(".new").read_bytes())
    assert "is being overwritten" in fault()
    os.truncate(file, 50)
    assert "torn" in fault()
    file.write_bytes(content)
    assert store.get(AdapterUse("ink", 1.0)).digest == store.digests["ink"]
    store._cache.reset()
    file.unlink()
    assert "was taken away" in fault()
    assert "no adapter 'oil'" in fault("oil")


def test_a_bad_adapter_does_not_end_the_start(file: Path, shared_device: SdxlDevice) -> None:
    shutil.copy(file, file.with_name("torn.safetensors"))
    os.truncate(file.with_name("torn.safetensors"), 50)
    files = ModelFiles(Path(shared_device.info.path or ""), adapters_path=file.parent)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    with capture_logs() as logged:
        device.load()
    assert list(device.info.adapters) == ["ink"]
    assert "torn.safetensors is torn" in device.info.adapters_refused["torn"]
    assert [line["adapter"] for line in logged if line["event"] == "adapter_refused"] == ["torn"]
    assert prepare(device, replace(PLAIN, adapters=(AdapterUse("ink", 1.0),)))
    device.close()


def test_an_adapter_the_device_does_not_have_is_the_requests_fault(shared_device: SdxlDevice) -> None:
    with pytest.raises(RenderFault) as caught:
        prepare(shared_device, replace(PLAIN, adapters=(AdapterUse("ink", 1.0),)))
    assert caught.value.code == "unknown_adapter"


def test_each_layer_has_the_alpha_of_its_own(tmp_path: Path, networks: Networks) -> None:
    """Where alphas differ, diffusers' loader gives attention layers the commonest one; the file says which is whose."""
    file = tmp_path / "kohya.safetensors"
    names = [LAYER, LAYER.replace("attn1.to_q", "ff.net.2"), LAYER.replace("to_q", "to_out.0")]
    loras.kohya_file(file, loras.Layers(networks, 1), names, ["encoder.layers.0.mlp.fc1"], rank=4, alpha=2.0)
    tensors = load_file(file)
    alphas = {key: 2.0 + number for number, key in enumerate(sorted(key for key in tensors if key.endswith("alpha")))}
    save_file(tensors | {key: torch.tensor(alpha) for key, alpha in alphas.items()}, file)
    lora = parse_lora(file, file.read_bytes(), LayerNames(networks), networks)
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
    layer = parse_lora(file, file.read_bytes(), LayerNames(networks), networks).layers["unet"][LAYER]
    assert layer.scale == scale


def test_a_torn_header_is_told(file: Path, networks: Networks) -> None:
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": "{"})
    with pytest.raises(LoraUnusable, match="torn"):
        parse_lora(file, file.read_bytes(), LayerNames(networks), networks)
