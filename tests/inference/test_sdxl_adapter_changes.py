"""Proves that adapters appear, change and disappear while a device runs: as a whole, alone, and by their own digest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from structlog.testing import capture_logs

from darkroom.inference.sdxl import ModelFiles, SdxlDevice
from darkroom.inference.sdxl.loading.adapter_files import ADAPTERS_MAX, AdapterEntry, AdapterFolder
from darkroom.inference.sdxl.prepare.adapter_store import AdapterStore
from darkroom.inference.types import AdapterUse, ModelError, RenderedImage, RenderFault, RenderJob, RenderRequest
from tests.inference import loras
from tests.inference.painting import PLAIN, TOLERANCE, distance, paint, pixels, prepare

pytestmark = pytest.mark.render

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
ON_CPU = dict.fromkeys(("unet", "text_encoder", "text_encoder_2"), torch.device("cpu"))
INK = replace(PLAIN, adapters=(AdapterUse("ink", 1.0),))


@pytest.fixture(scope="module")
def networks(shared_device: SdxlDevice) -> dict[str, torch.nn.Module]:
    components = shared_device._loaded().components
    return dict(zip(ON_CPU, (components.unet, *components.text_encoders), strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapters"
    folder.mkdir()
    return folder


@pytest.fixture
def device(shared_device: SdxlDevice, folder: Path) -> Iterator[SdxlDevice]:
    files = ModelFiles(Path(shared_device.info.path or ""), adapters_path=folder)
    device = SdxlDevice(lambda: files, device="cpu", cpu_threads=1)
    device.load()
    yield device
    device.close()


def write(file: Path, networks: dict[str, torch.nn.Module], seed: int, *, in_place: bool = False) -> str:
    """Write a LoRA as a careful tool does, aside and then renamed, or over what is there. Return its digest."""
    aside = file.with_name(f".{file.name}")
    attention = loras.transformer_layers(networks["unet"], loras.ATTENTION)
    loras.peft_file(aside, loras.Layers(networks, seed), {"unet": attention})
    content = aside.read_bytes()
    if in_place:
        file.write_bytes(content)
        aside.unlink()
    else:
        aside.rename(file)
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def look(device: SdxlDevice) -> bool:
    """Look often enough for every change to be believed."""
    return any([device.refresh_adapters(), device.refresh_adapters()])


def fault_of(device: SdxlDevice, request: RenderRequest) -> RenderFault:
    with pytest.raises(RenderFault) as caught:
        prepare(device, request)
    return caught.value


def test_a_file_comes_is_replaced_and_goes_while_rows_are_on_the_device(
    device: SdxlDevice, folder: Path, networks: dict[str, torch.nn.Module]
) -> None:
    file = folder / "ink.safetensors"
    assert dict(device.info.adapters) == {}
    assert fault_of(device, INK).code == "unknown_adapter"
    first = write(file, networks, 1)
    assert look(device)
    assert device.info.adapters == {"ink": first}
    rows = prepare(device, INK)
    device.step(rows)
    alone = paint(device, INK)

    second = write(file, networks, 2)
    assert look(device)
    assert device.info.adapters == {"ink": second}
    assert distance(paint(device, INK), alone) > 8, "the new file is used"

    file.unlink()
    assert look(device)
    assert dict(device.info.adapters) == {}
    assert fault_of(device, INK).code == "unknown_adapter"
    assert device.cache_counts()["adapter"].bytes_held == 0, "its tensors are unloaded"
    while rows[0].steps_done < rows[0].steps_total:
        device.step(rows)
    (picture,) = device.finish(rows)
    assert isinstance(picture, RenderedImage)
    assert distance(pixels(picture), alone) <= TOLERANCE, "a row on the device keeps the file that it began with"
    assert not look(device)


def test_the_picture_names_the_file_that_it_was_painted_with(
    device: SdxlDevice, folder: Path, networks: dict[str, torch.nn.Module]
) -> None:
    """A request that was resolved against one file and prepared against the next."""
    asked = {"adapter": {"digest": "sha256:old", "name": "ink", "weight": 0.8}, "prompt": "ünì", "seed": 7}
    text = {"darkroom:request": json.dumps(asked, sort_keys=True, separators=(",", ":")), "Software": "darkroom"}
    digest = write(folder / "ink.safetensors", networks, 3)
    look(device)
    prepared = device.prepare(RenderJob("job", replace(INK, image_text=text)))
    assert dict(prepared.adapters) == {"ink": digest}
    asked["adapter"]["digest"] = digest  # type: ignore[index]
    named = prepared.rows[0].request.image_text
    assert named == {**text, "darkroom:request": json.dumps(asked, sort_keys=True, separators=(",", ":"))}
    assert dict(device.prepare(RenderJob("plain", replace(PLAIN, image_text=text))).adapters) == {}


def test_a_file_that_is_still_being_copied_is_not_taken(
    device: SdxlDevice, folder: Path, networks: dict[str, torch.nn.Module]
) -> None:
    whole = folder.parent / "whole.safetensors"
    digest = write(whole, networks, 4)
    content, file = whole.read_bytes(), folder / "ink.safetensors"
    with capture_logs() as logged:
        for size in range(1000, len(content), len(content) // 5):
            file.write_bytes(content[:size])
            device.refresh_adapters()
            assert (dict(device.info.adapters), dict(device.info.adapters_refused)) == ({}, {})
        file.write_bytes(content)
        look(device)
    assert device.info.adapters == {"ink": digest}
    assert [line["event"] for line in logged] == ["adapter_found"]
    assert prepare(device, INK)


def test_a_file_that_is_overwritten_keeps_its_last_whole_content_until_then(
    device: SdxlDevice, folder: Path, networks: dict[str, torch.nn.Module]
) -> None:
    file = folder / "ink.safetensors"
    first = write(file, networks, 1)
    look(device)
    before = paint(device, INK)
    second = write(file, networks, 2, in_place=True)
    device.refresh_adapters()
    assert device.info.adapters == {"ink": first}
    assert distance(paint(device, INK), before) <= TOLERANCE
    device.refresh_adapters()
    assert device.info.adapters == {"ink": second}
    assert distance(paint(device, INK), before) > 8


def test_a_file_that_took_anothers_place_is_used_before_anybody_looked(
    folder: Path, networks: dict[str, torch.nn.Module]
) -> None:
    """Nothing is left of the old one, and the new one came whole: no request has to fail for it."""
    file = folder / "ink.safetensors"
    write(file, networks, 1)
    store = AdapterStore(folder, networks, ON_CPU)
    digest = write(file, networks, 2)
    assert store.get(AdapterUse("ink", 1.0)).digest == digest
    assert store.digests == {"ink": digest}
    file.with_name("torn").write_bytes(b"torn")
    file.with_name("torn").rename(file)
    store._cache.reset()
    with pytest.raises(RenderFault, match="torn"):
        store.get(AdapterUse("ink", 1.0))


def test_a_bad_file_is_told_once_and_hurts_no_other(
    device: SdxlDevice, folder: Path, networks: dict[str, torch.nn.Module]
) -> None:
    good = write(folder / "ink.safetensors", networks, 1)
    look(device)
    bad = folder / "bad.safetensors"
    with capture_logs() as logged:
        bad.write_bytes(b"no safetensors")
        for _ in range(4):
            device.refresh_adapters()
        assert device.info.adapters == {"ink": good}
        assert "torn" in device.info.adapters_refused["bad"]
        assert "torn" in fault_of(device, replace(PLAIN, adapters=(AdapterUse("bad", 1.0),))).message
        assert prepare(device, INK)
    assert [(line["event"], line["adapter"]) for line in logged] == [("adapter_refused", "bad")]
    mended = write(bad, networks, 2)
    with capture_logs() as logged:
        look(device)
    assert (device.info.adapters["bad"], dict(device.info.adapters_refused)) == (mended, {})
    assert [line["event"] for line in logged] == ["adapter_found"]
    bad.write_bytes(b"worse")
    look(device)
    assert list(device.info.adapters_refused) == ["bad"]
    bad.unlink()
    look(device)
    assert dict(device.info.adapters_refused) == {}


def test_peft_folders_come_and_change_with_their_settings(folder: Path, networks: dict[str, torch.nn.Module]) -> None:
    store = AdapterStore(folder, networks, ON_CPU)
    peft = folder / "ink"
    peft.mkdir()
    down, up = loras.Layers(networks, 1).pair("unet", LAYER, 4)
    tensors = {f"base_model.model.{LAYER}.lora_A.weight": down, f"base_model.model.{LAYER}.lora_B.weight": up}
    save_file(tensors, peft / "adapter_model.safetensors")
    digests = []
    for alpha in (4, 8):
        (peft / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
        assert [store.refresh(), store.refresh()] == [False, True]
        digests.append(store.digests["ink"])
        assert store.get(AdapterUse("ink", 1.0)).lora.layers["unet"][LAYER].scale == alpha / 4
    assert len(set(digests)) == 2
    shutil.rmtree(peft)
    assert [store.refresh(), store.refresh()] == [True, False], "what is not there cannot be used"


def test_a_folder_that_cannot_be_read_for_a_while_takes_nothing_away(
    device: SdxlDevice, folder: Path, networks: dict[str, torch.nn.Module]
) -> None:
    write(folder / "ink.safetensors", networks, 1)
    look(device)
    info = device.info
    folder.rename(folder.with_name("away"))
    with pytest.raises(ModelError, match="DARKROOM_MODEL__ADAPTERS_PATH"):
        device.refresh_adapters()
    assert device.info is info
    folder.with_name("away").rename(folder)
    assert not look(device)
    assert prepare(device, INK)


def test_the_bounds_hold_for_files_that_come_later(
    folder: Path, networks: dict[str, torch.nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "ink.safetensors", networks, 1)
    size = AdapterStore(folder, networks, ON_CPU).get(AdapterUse("ink", 1.0)).lora.size_bytes
    store = AdapterStore(folder, networks, ON_CPU, cache_bytes_max=2 * size)
    for seed, name in enumerate(("oil", "chalk", "pen")):
        write(folder / f"{name}.safetensors", networks, seed)
    attention = loras.transformer_layers(networks["unet"], loras.ATTENTION)
    loras.peft_file(folder / "large.safetensors", loras.Layers(networks, 9), {"unet": attention}, rank=16)
    store.refresh()
    store.refresh()
    assert "DARKROOM_LIMITS__ADAPTER_CACHE_BYTES" in store.refused["large"]
    assert set(store.digests) == {"ink", "oil", "chalk", "pen"}
    for name in store.digests:
        store.get(AdapterUse(name, 1.0))
        assert store.counts().bytes_held <= 2 * size
    monkeypatch.setattr("darkroom.inference.sdxl.loading.adapter_files.ADAPTERS_MAX", 4)
    with pytest.raises(ModelError, match="more than 4 files"):
        store.refresh()
    assert ADAPTERS_MAX > 1000
    assert set(store.digests) == {"ink", "oil", "chalk", "pen"}


def test_a_change_counts_when_two_looks_have_seen_it(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).write_text("1")
    listing = AdapterFolder(folder)

    def listed() -> dict[str, object]:
        return {entry.path.name: entry.version for entry in listing()}

    first = listed()
    assert set(first) == {"a", "b"}, "at the start everything counts"
    (folder / "a").unlink()
    (folder / "b").write_text("22")
    (folder / "c").write_text("3")
    assert listed() == first
    second = listed()
    assert set(second) == {"b", "c"}
    assert second["b"] != first["b"]
    os.utime(folder / "b", ns=(1, 1))
    assert listed() == second
    assert listed()["b"] != second["b"]
    (folder / ".hidden").write_text("4")
    assert {*listed(), *listed()} == {"b", "c"}


def test_what_could_not_be_fetched_is_refused_with_the_reason(networks: dict[str, torch.nn.Module]) -> None:
    entries = [AdapterEntry(Path("ink.safetensors"), 1, "It came torn."), AdapterEntry(Path("peft"), 1, "So did this.")]
    store = AdapterStore(lambda: entries, networks, ON_CPU)
    assert store.refused == {"ink": "It came torn.", "peft": "So did this."}


def test_an_empty_folder_is_told_at_the_start(folder: Path, networks: dict[str, torch.nn.Module]) -> None:
    with capture_logs() as logged:
        AdapterStore(folder, networks, ON_CPU)
        AdapterStore(None, networks, ON_CPU)
    assert [line["event"] for line in logged] == ["no_adapters"]
