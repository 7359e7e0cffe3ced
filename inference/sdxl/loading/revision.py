"""Finds a model's weight files, and computes the digest that identifies them.

Two workers that report the same revision hold the same bytes. Besides the weights the digest covers the small files
that decide pixels just as much: configurations, tokenizers, the noise schedule.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from darkroom.inference.types import ModelError

_STEMS: Final = ("diffusion_pytorch_model", "model")
_HALF_VARIANT: Final = "fp16"
_OTHER_WEIGHTS: Final = frozenset({".bin", ".ckpt", ".pt", ".pth", ".msgpack", ".onnx", ".gguf", ".safetensors"})
CONTROLNET: Final = "controlnet"
"""The part that follows poses; further ControlNets are `controlnet:` and their names."""
_PLAIN_PARTS: Final = ("tokenizer", "tokenizer_2", "scheduler")


@dataclass(frozen=True, slots=True)
class Weights:
    """The weight files of one network."""

    folder: Path
    """The folder of its `config.json`, and of its weights unless they are in a single file."""
    variant: str | None
    """diffusers' name of the set of files in the folder: `fp16`, or None for the plain ones."""
    files: tuple[Path, ...]
    """The files that count for the revision."""
    single_file: Path | None = None
    """The single file that holds the network, alone or together with others."""

    @property
    def read_from(self) -> tuple[Path, ...]:
        """The files that hold the network's tensors."""
        return self.files if self.single_file is None else (self.single_file,)

    @property
    def place(self) -> Path:
        """The path to name in an error message."""
        return self.single_file or self.folder


def find_weights(folder: Path, dtype: torch.dtype) -> Weights:
    """Find the safetensors files in `folder` to load for `dtype`: the fp16 set for fp16, if there is one.

    A set is one file or its shards. Raises `ModelError` if there is none.
    """
    plain, half = _files(folder, ""), _files(folder, f".{_HALF_VARIANT}")
    if half and (dtype is torch.float16 or not plain):
        return Weights(folder, _HALF_VARIANT, half)
    if not plain:
        others = sorted(file.name for file in folder.glob("*") if file.suffix in _OTHER_WEIGHTS)
        has = f" (it has {others[0]}, which is not read)" if others else ""
        raise ModelError(
            f"There are no safetensors weights in {folder}{has}: name a diffusers folder with files called "
            f"{_STEMS[0]}.safetensors or {_STEMS[1]}.safetensors, .fp16 before the ending or not; pickles are "
            "converted by loading them with diffusers and calling save_pretrained."
        )
    return Weights(folder, None, plain)


def _files(folder: Path, variant: str) -> tuple[Path, ...]:
    for stem in _STEMS:
        whole = folder / f"{stem}{variant}.safetensors"
        shards = tuple(sorted(folder.glob(f"{stem}{variant}-*-of-*.safetensors")))
        if whole.is_file() or shards:
            return (whole,) if whole.is_file() else shards
    return ()


def kind_of(part: str) -> str:
    """Return the kind of network that a part is: `controlnet` for each ControlNet, the part itself for others."""
    return part.partition(":")[0]


def network_digest(weights: Weights) -> str:
    """Return `sha256:` and 64 hexadecimal digits over one network's configuration and weights. Raises `ModelError`."""
    whole = hashlib.sha256()
    try:
        _add_network(whole, CONTROLNET, weights)
    except (OSError, ValueError) as error:
        raise ModelError(f"The network in {weights.place} cannot be read ({error}): copy it again.") from error
    return f"sha256:{whole.hexdigest()}"


def model_revision(
    path: Path, parts: Mapping[str, Weights], *, zeros_for_no_text: bool, schedule_changes: Mapping[str, Any]
) -> str:
    """Return `sha256:` and 64 hexadecimal digits over everything that decides a picture, except the request.

    ControlNets beside the model's own are left out: they count for the requests that use them alone.
    `schedule_changes` are the settings in effect that differ from the scheduler's file. Raises `ModelError`.
    """
    whole = hashlib.sha256(f"force_zeros_for_empty_prompt={zeros_for_no_text}".encode())
    if schedule_changes:
        _add(whole, "schedule", json.dumps(schedule_changes, sort_keys=True).encode())
    try:
        for part, weights in sorted(parts.items()):
            if kind_of(part) == part:
                _add_network(whole, part, weights)
        for part in _PLAIN_PARTS:
            for file in sorted((path / part).iterdir()):
                if file.suffix in (".json", ".txt"):
                    content = _canonical(file) if file.suffix == ".json" else file.read_bytes()
                    _add(whole, f"{part}/{file.name}", content)
    except (OSError, ValueError) as error:
        raise ModelError(f"The model in {path} cannot be read ({error}): copy the model again.") from error
    return f"sha256:{whole.hexdigest()}"


def _add_network(whole: Any, part: str, weights: Weights) -> None:
    _add(whole, f"{part}/config.json", _canonical(weights.folder / "config.json"))
    for place, file in enumerate(weights.files):
        with file.open("rb") as opened:
            _add(whole, f"{part}/{place}", hashlib.file_digest(opened, "sha256").digest())


def _add(whole: Any, name: str, content: bytes) -> None:
    whole.update(f"\n{name} {len(content)}\n".encode())
    whole.update(content)


def _canonical(file: Path) -> bytes:
    """Return a JSON file without the parts that affect no pixel: its formatting, and notes such as `_name_or_path`."""
    content = json.loads(file.read_bytes())
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if not key.startswith("_") or key == "_class_name"}
    return json.dumps(content, sort_keys=True).encode()
