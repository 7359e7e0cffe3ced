"""Reads a LoRA file: the layers that it changes, and the change to each.

A LoRA adds a second branch to a layer W x + b: W x + b + scale * up(down(x)), with scale = alpha / rank (Hu et al.
2021, "LoRA", section 4.1). Files come in several layouts: diffusers', PEFT's, ComfyUI's and kohya's names, alphas as
tensors, as metadata or not at all (then alpha is the rank). diffusers' own conversions are not used: they match name
patterns, drop unknown tensors, and blame another layer at each start. Here each tensor is assigned to a layer or
refused by its name, always the same one.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import safetensors.torch
import torch

from darkroom.inference.sdxl.loading.lora_kinds import EMBEDDING, family, family_of_width, foreign
from darkroom.inference.sdxl.loading.lora_names import PEFT_PREFIX, UNET, LayerNames, Networks

_METADATA: Final = "lora_adapter_metadata"
"""The header entry in which diffusers stores PEFT's settings."""
_HEADER_LENGTH_BYTES: Final = 8


class LoraUnusable(Exception):  # noqa: N818 - it is the file that is unusable
    """A LoRA file that is torn, of another kind or for another model: one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class LoraLayer:
    """The change that a LoRA makes to one layer."""

    down: torch.Tensor
    """(rank, in) of a linear layer, (rank, in, height, width) of a convolution."""
    up: torch.Tensor
    """(out, rank), or (out, rank, 1, 1)."""
    scale: float
    """alpha / rank."""


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """A LoRA, each tensor in the dtype and on the device of the layer it belongs to."""

    layers: Mapping[str, Mapping[str, LoraLayer]]
    """By network, then by the layer's name in it. Networks that the LoRA does not change are missing."""
    remark: str | None = None
    """The sentence for the operator about anything that the file has or lacks besides the LoRA's tensors."""

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors."""
        layers = [layer for its_layers in self.layers.values() for layer in its_layers.values()]
        return [tensor for layer in layers for tensor in (layer.down, layer.up)]

    @property
    def size_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())

    @property
    def changes_text(self) -> bool:
        """True if the LoRA changes a text encoder, and with it the encoding of prompts."""
        return any(network != UNET for network in self.layers)


@dataclass(frozen=True, slots=True)
class _Written:
    """One layer's tensors in the file: key and tensor, by role."""

    parts: dict[str, tuple[str, torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _File:
    """The file's name and metadata, for refusals."""

    name: str
    metadata: Mapping[str, str]

    def refuse(self, what: str) -> NoReturn:
        """Raise `LoraUnusable`: a sentence about the file."""
        raise LoraUnusable(f"The adapter file {self.name} {what}.")


def parse_lora(file: Path, content: bytes, names: LayerNames, networks: Networks) -> Lora:
    """Return the LoRA in the bytes of `file`, fitted to the networks, of which `names` is. Raises `LoraUnusable`."""
    try:
        tensors = safetensors.torch.load(content)
        metadata = _metadata(content)
        settings = json.loads(metadata.get(_METADATA) or "{}")
    except (safetensors.SafetensorError, ValueError) as error:
        raise LoraUnusable(
            f"The adapter file {file.name} is torn or not a safetensors file ({_first_line(error)}): copy it again."
        ) from error
    about = _File(file.name, metadata)
    if not tensors:
        about.refuse("has no tensors: copy it again")
    embedded = sorted(key for key in tensors if key.startswith(EMBEDDING))
    keys = sorted(tensors.keys() - set(embedded))
    if not keys:
        about.refuse(f"holds an embedding and no LoRA ({embedded[0]}): use a plain LoRA")
    for key in keys:
        what = foreign(key)
        if what is not None:
            about.refuse(
                f"is not a plain LoRA, its tensor {key} belongs to {what[0]}, which is not supported: {what[1]}"
            )
    written = _written(about, keys, tensors, names)
    scales = settings if isinstance(settings, dict) else {}
    layers: dict[str, dict[str, LoraLayer]] = {}
    for (network, layer), one in written.items():
        module: Any = networks[network].get_submodule(layer)
        layers.setdefault(network, {})[layer] = _fit(about, module, layer, one, _of(network, scales))
    return Lora(layers, _remark(file, keys, embedded, has_settings=bool(scales)))


def _remark(file: Path, keys: list[str], embedded: list[str], *, has_settings: bool) -> str | None:
    if embedded:
        return (
            f"The adapter file {file.name} brings an embedding ({embedded[0]}), which is left out: "
            "its trigger word is read as plain text."
        )
    if keys[0].startswith(PEFT_PREFIX) and not has_settings and not any(key.endswith(".alpha") for key in keys):
        return (
            f"The adapter file {file.name} is PEFT's, which keeps alpha in adapter_config.json beside it: alpha is "
            "taken to be the rank. Where it is not, multiply the weight of each request by alpha / rank."
        )
    return None


def _written(
    about: _File, keys: list[str], tensors: Mapping[str, torch.Tensor], names: LayerNames
) -> dict[tuple[str, str], _Written]:
    """Return the file's tensors by layer. A tensor without a layer makes the file unusable."""
    written: dict[tuple[str, str], _Written] = {}
    for key in keys:
        place = names.find(key)
        if place is None:
            hint = family(key, about.metadata)
            about.refuse(f"is not a plain LoRA, its tensor {key} is not known{hint}: take it out, or use a plain LoRA")
        if isinstance(place, str):
            about.refuse(
                f"does not fit this model, which has no linear layer or convolution {place} (its tensor {key})"
                f"{family(key, about.metadata)}: use an adapter that was made for SDXL"
            )
        parts = written.setdefault(place[:2], _Written()).parts
        if place.role in parts:
            about.refuse(f"has two tensors for one place, {parts[place.role][0]} and {key}: keep one adapter in it")
        parts[place.role] = key, tensors[key]
    return written


def _fit(about: _File, module: Any, layer: str, written: _Written, settings: Mapping[str, Any]) -> LoraLayer:
    """Return the file's change to one layer, checked against the layer."""
    parts = written.parts
    if "down" not in parts or "up" not in parts:
        key = next(iter(parts.values()))[0]
        about.refuse(f"is not whole, it has half of {layer} ({key}): copy it again")
    (down_key, down), (up_key, up) = parts["down"], parts["up"]
    for key, tensor in parts.values():
        if not tensor.is_floating_point():
            about.refuse(
                f"has the tensor {key} of {tensor.dtype}, which is quantised or not a weight: use an fp16 file"
            )
    down, up = down.float(), up.float()
    if "mid" in parts:
        down = _with_middle(about, down, *parts["mid"])
    has = module.weight.shape
    kernel = has[2:]
    if math.prod(kernel) == 1:
        # Some tools write a linear layer as a convolution of one point, others the other way round.
        down, up = (_reshaped(one, len(has)) for one in (down, up))
    rank = down.shape[0] if down.dim() else 0
    if not rank or down.shape != (rank, has[1], *kernel) or up.shape != (has[0], rank, *(1 for _ in kernel)):
        width = down.shape[1] if down.dim() > 1 else 0
        about.refuse(
            f"does not fit this model: its tensors for {layer} are {tuple(down.shape)} and {tuple(up.shape)} "
            f"({down_key}), and the layer's weight is {tuple(has)}"
            f"{family_of_width(layer, width)}; use an adapter that was made for this model"
        )
    dtype = module.weight.dtype
    down, up = down.to(dtype), up.to(dtype)
    for key, tensor in ((down_key, down), (up_key, up)):
        if not bool(torch.isfinite(tensor).all()):
            about.refuse(f"has values that are not finite in {layer} ({key}): train or copy it again")
    return LoraLayer(down.contiguous(), up.contiguous(), _scale(about, layer, rank, parts.get("alpha"), settings))


def _with_middle(about: _File, down: torch.Tensor, key: str, mid: torch.Tensor) -> torch.Tensor:
    """Return the `down` of a plain LoRA that does what `mid` after `down` does (Tucker decomposition, LyCORIS).

    `down` is of one point and `mid` (rank, rank, height, width) has the kernel, so one product folds them.
    """
    if mid.dim() != 4 or down.dim() != 4 or down.shape[2:] != (1, 1) or mid.shape[1] != down.shape[0]:
        about.refuse(f"has a middle layer that does not fit ({key}, {tuple(mid.shape)}): copy it again")
    return torch.einsum("mnkl,nj->mjkl", mid.float(), down[:, :, 0, 0])


def _reshaped(tensor: torch.Tensor, dimensions: int) -> torch.Tensor:
    if tensor.dim() not in (2, 4) or math.prod(tensor.shape[2:]) != 1:
        return tensor
    return tensor.reshape(*tensor.shape[:2], *(1 for _ in range(dimensions - 2)))


def _scale(
    about: _File, layer: str, rank: int, written: tuple[str, torch.Tensor] | None, settings: Mapping[str, Any]
) -> float:
    """Return alpha / rank; for rank-stabilised LoRA (Kalajdzievski 2023) alpha / sqrt(rank)."""
    if written is not None:
        key, tensor = written
        if tensor.numel() != 1:
            about.refuse(f"has the alpha {key} of {tensor.numel()} values, where one is meant: copy it again")
        alpha = float(tensor)
    else:
        patterns = settings.get("alpha_pattern") or {}
        # PEFT's rule: a pattern is a regular expression that the layer's name ends in, the name being the file's own.
        ends = (layer, f"text_model.{layer}")
        pattern = next((one for one in patterns if any(re.match(rf"(.*\.)?({one})$", end) for end in ends)), None)
        key, alpha = "lora_alpha", float(settings.get("lora_alpha", rank) if pattern is None else patterns[pattern])
    if not math.isfinite(alpha):
        about.refuse(f"has an alpha that is not finite ({key} of {layer}): save it in fp32")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata in the file's header."""
    length = int.from_bytes(content[:_HEADER_LENGTH_BYTES], "little")
    header = json.loads(content[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + length])
    metadata: dict[str, str] = header.get("__metadata__") or {}
    return metadata


def _of(network: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{network}."): value for key, value in named.items() if key.startswith(f"{network}.")}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
