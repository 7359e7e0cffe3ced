"""Proves that the tiny model is the same everywhere, is SDXL in small, and survives being asked for by many at once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from darkroom.inference.tiny import TinyModel, ensure_tiny_model
from darkroom.inference.tiny.folder import build
from darkroom.inference.types import ModelError
from darkroom.inference.user_cache import user_cache_folder

pytestmark = pytest.mark.render


def digests(folder: Path) -> dict[str, str]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_it_is_the_same_to_the_last_bit_and_disturbs_nobodys_randomness(tiny: TinyModel, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = ensure_tiny_model(tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert again.path != tiny.path
    assert digests(again.path.parent) == digests(tiny.path.parent)


def test_it_is_built_once(tmp_path: Path) -> None:
    first = ensure_tiny_model(tmp_path)
    built = {file: file.stat().st_mtime_ns for file in first.path.rglob("*")}
    assert ensure_tiny_model(tmp_path) == first
    assert {file: file.stat().st_mtime_ns for file in first.path.rglob("*")} == built


def test_many_at_once_get_one_whole_model(tiny: TinyModel, tmp_path: Path) -> None:
    models: list[TinyModel] = []
    start = threading.Barrier(3)

    def ask() -> None:
        start.wait(timeout=20)
        models.append(ensure_tiny_model(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=100)
    assert len(models) == 3
    assert len(set(models)) == 1
    assert [folder.name for folder in tmp_path.iterdir()] == [models[0].path.parent.name], "no half-built folder stays"
    assert digests(models[0].path.parent) == digests(tiny.path.parent), "threads share one random state"


def test_whoever_builds_second_leaves_the_firsts_model_alone(tiny: TinyModel, tmp_path: Path) -> None:
    """As two processes do that looked at the same time and found nothing."""
    target = tmp_path / "cache" / "tiny"
    build(target)
    first = {file: file.stat().st_ino for file in target.rglob("*")}
    build(target)
    assert {file: file.stat().st_ino for file in target.rglob("*")} == first
    assert digests(target) == digests(tiny.path.parent)
    assert list(target.parent.iterdir()) == [target], "no half-built folder stays"


def test_what_a_dead_builder_left_behind_is_not_taken_for_a_model(tiny: TinyModel, tmp_path: Path) -> None:
    torn = tmp_path / ".tiny-abandoned" / "model"
    torn.mkdir(parents=True)
    (torn / "model_index.json").write_text("{")
    model = ensure_tiny_model(tmp_path)
    assert digests(model.path.parent) == digests(tiny.path.parent)


def test_it_is_small_and_safe(tiny: TinyModel) -> None:
    files = [file for file in tiny.path.parent.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 30_000_000
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".txt"}


def test_it_is_sdxl_in_small(tiny: TinyModel) -> None:
    def settings(name: str) -> dict[str, object]:
        loaded: dict[str, object] = json.loads((tiny.path.parent / name).read_text())
        return loaded

    unet, vae, controlnet = (settings(f"{n}/config.json") for n in ("model/unet", "model/vae", "controlnet"))
    assert unet["down_block_types"] == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert unet["addition_embed_type"] == "text_time"
    assert unet["sample_size"] == 8
    assert len(vae["block_out_channels"]) == 4  # type: ignore[arg-type]
    assert len(controlnet["conditioning_embedding_out_channels"]) == 4  # type: ignore[arg-type]
    assert vae["force_upcast"] is True
    assert settings("model/model_index.json")["force_zeros_for_empty_prompt"] is True
    assert settings("model/scheduler/scheduler_config.json")["timestep_spacing"] == "leading"


def test_its_tokenizers_know_characters_and_pad_differently(tiny: TinyModel) -> None:
    from transformers import CLIPTokenizer

    first, second = (CLIPTokenizer.from_pretrained(tiny.path / name) for name in ("tokenizer", "tokenizer_2"))
    text = "A fox, 2 雪?"
    assert first(text).input_ids == second(text).input_ids
    assert first.decode(first(text).input_ids, skip_special_tokens=True).replace(" ", "") == "afox,2雪?"
    assert len(first("x" * 75).input_ids) == 77
    padded = [tokenizer(text, padding="max_length", max_length=77).input_ids[-1] for tokenizer in (first, second)]
    assert padded[0] != padded[1]


def test_its_pictures_have_contrast(shared_device: object) -> None:
    from tests.inference.painting import POSED, paint

    levels = paint(shared_device, POSED)  # type: ignore[arg-type]
    assert levels.std() > 25
    assert ((levels == 0) | (levels == 255)).mean() < 0.3


def test_it_lives_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / "darkroom"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / ".cache" / "darkroom"
    assert ensure_tiny_model().path.is_relative_to(tmp_path / ".cache" / "darkroom")


def occupied(root: Path) -> None:
    root.write_text("a file where the folder should be")


def dangling(root: Path) -> None:
    root.symlink_to(root / "itself")


@pytest.mark.parametrize("obstacle", [occupied, dangling])
def test_a_place_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path, obstacle: Callable[[Path], None]) -> None:
    obstacle(tmp_path / "cache")
    with pytest.raises(ModelError, match="XDG_CACHE_HOME"):
        ensure_tiny_model(tmp_path / "cache")
