"""Reads an adapter file, a LoRA or one of its relatives: the layers that it changes, and the change to each.

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
from darkroom.inference.sdxl.loading.lora_layers import (
    NORMS,
    DoraLayer,
    Factors,
    FullLayer,
    LayerChange,
    LohaLayer,
    LokrLayer,
    LoraLayer,
    WeightChange,
    dora,
)
from darkroom.inference.sdxl.loading.lora_names import PEFT_PREFIX, UNET, LayerNames, Networks

_METADATA: Final = "lora_adapter_metadata"
"""The header entry in which diffusers stores PEFT's settings."""
_HEADER_LENGTH_BYTES: Final = 8
_HADAMARD: Final = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"})
_KRONECKER: Final = frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"})


class LoraUnusable(Exception):  # noqa: N818 - it is the file that is unusable
    """A LoRA file that is torn, of another kind or for another model: one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class Lora:
    """A LoRA, each tensor in the dtype and on the device of the layer it belongs to."""

    layers: Mapping[str, Mapping[str, LayerChange]]
    """By network, then by the layer's name in it. Networks that the LoRA does not change are missing."""
    remark: str | None = None
    reads_config: bool = False
    """True if PEFT's settings beside the file decided the strength."""
    """The sentence for the operator about anything that the file has or lacks besides the LoRA's tensors."""

    def tensors(self) -> list[torch.Tensor]:
        """Return all tensors."""
        layers = [layer for its_layers in self.layers.values() for layer in its_layers.values()]
        return [tensor for layer in layers for tensor in layer.tensors()]

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


def parse_lora(file: Path, content: bytes, names: LayerNames, networks: Networks, config: bytes | None = None) -> Lora:
    """Return the LoRA in the bytes of `file`, fitted to the networks, of which `names` is. Raises `LoraUnusable`.

    `config` is the adapter_config.json beside it, which is read for a file of PEFT's own that has no alphas.
    """
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
    has_alphas = bool(scales) or any(key.endswith(".alpha") for key in keys)
    reads_config = config is not None and keys[0].startswith(PEFT_PREFIX) and not has_alphas
    if config is not None and reads_config:
        scales = _peft_settings(about, config)
    layers: dict[str, dict[str, LayerChange]] = {}
    for (network, layer), one in written.items():
        module: Any = networks[network].get_submodule(layer)
        layers.setdefault(network, {})[layer] = _fit(about, module, layer, one, _of(network, scales))
    return Lora(layers, _remark(file, keys, embedded, has_settings=bool(scales)), reads_config)


def _remark(file: Path, keys: list[str], embedded: list[str], *, has_settings: bool) -> str | None:
    if embedded:
        return (
            f"The adapter file {file.name} brings an embedding ({embedded[0]}), which is left out: "
            "its trigger word is read as plain text."
        )
    if keys[0].startswith(PEFT_PREFIX) and not has_settings and not any(key.endswith(".alpha") for key in keys):
        return (
            f"The adapter file {file.name} is PEFT's, which keeps alpha in adapter_config.json beside it: alpha is "
            "taken to be the rank. Where it is not, keep the folder as PEFT wrote it: NAME/adapter_model.safetensors "
            "and NAME/adapter_config.json."
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
                f"does not fit this model, which has no layer {place} that an adapter can change (its tensor {key})"
                f"{family(key, about.metadata)}: use an adapter that was made for SDXL"
            )
        parts = written.setdefault(place[:2], _Written()).parts
        if place.role in parts:
            about.refuse(f"has two tensors for one place, {parts[place.role][0]} and {key}: keep one adapter in it")
        parts[place.role] = key, tensors[key]
    return written


def _fit(about: _File, module: Any, layer: str, written: _Written, settings: Mapping[str, Any]) -> LayerChange:
    """Return the file's change to one layer, checked against the layer."""
    for key, tensor in written.parts.values():
        if not tensor.is_floating_point():
            about.refuse(
                f"has the tensor {key} of {tensor.dtype}, which is quantised or not a weight: use an fp16 file"
            )
    one = _Layer(about, module, layer, {role: part for role, part in written.parts.items() if role != "alpha"})
    alpha = written.parts.get("alpha")
    roles = set(one.parts) - {"magnitude"}
    change: FullLayer | WeightChange
    if isinstance(module, NORMS) or roles <= {"diff", "diff_b"}:
        change = _full(one, roles)
    elif roles <= _HADAMARD:
        first, second = one.factors("hada_w1", "hada_t1"), one.factors("hada_w2", "hada_t2")
        change = LohaLayer(
            first=first,
            second=second,
            shape=tuple(module.weight.shape),
            scale=_scale(about, layer, first[-1].shape[0], alpha, settings),
        )
    elif roles <= _KRONECKER:
        change = _kronecker(one, alpha, settings)
    else:
        change = _low_rank(one, alpha, settings)
    if not isinstance(change, FullLayer | LoraLayer):
        try:
            fits = change.delta().shape == module.weight.shape
        except RuntimeError:
            fits = False
        if not fits:
            one.misfit()
    if "magnitude" not in one.parts:
        return change
    if isinstance(change, FullLayer):
        about.refuse(f"has a DoRA's magnitude without its matrices ({one.parts['magnitude'][0]}): copy it again")
    return _dora(one, change)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer of the network, and the tensors that the file has for it."""

    about: _File
    module: Any
    name: str
    parts: Mapping[str, tuple[str, torch.Tensor]]

    def take(self, role: str) -> torch.Tensor:
        """Return a tensor in the layer's dtype; refuse the file where it is missing or not finite."""
        if role not in self.parts:
            self.half()
        key, tensor = self.parts[role]
        if not tensor.dim():
            self.misfit()
        return self.cast(key, tensor)

    def cast(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of the file, or one made of it, in the layer's dtype."""
        # Some 8-bit kinds cannot tell by themselves whether they are finite.
        if not bool(torch.isfinite(tensor.float()).all()):
            self.about.refuse(f"has values that are not finite in {self.name} ({key}): train or copy it again")
        dtype = self.module.weight.dtype
        cast = tensor.to(dtype)
        if not bool(torch.isfinite(cast.float()).all()):
            self.about.refuse(
                f"has values that are not finite in {dtype}, in which the model runs, in {self.name} ({key}): "
                "run the model in another dtype, or train it with smaller values"
            )
        return cast.contiguous()

    def factors(self, name: str, core: str) -> Factors:
        """Return the parts of one factor of a product: whole, two matrices, or a core with two."""
        if name in self.parts:
            return (self.take(name),)
        matrices = (self.take(f"{name}_a"), self.take(f"{name}_b"))
        return (self.take(core), *matrices) if core in self.parts else matrices

    def half(self) -> NoReturn:
        """Refuse the file for a tensor of the layer that is missing."""
        key = next(iter(self.parts.values()))[0] if self.parts else f"{self.name}.alpha"
        self.about.refuse(f"is not whole, it has half of {self.name} ({key}): copy it again")

    def misfit(self, width: int = 0) -> NoReturn:
        """Refuse the file for shapes that are not the layer's."""
        shapes = " and ".join(str(tuple(tensor.shape)) for _, tensor in self.parts.values())
        self.about.refuse(
            f"does not fit this model: its tensors for {self.name} are {shapes} "
            f"({next(iter(self.parts.values()))[0]}), and the layer's weight is {tuple(self.module.weight.shape)}"
            f"{family_of_width(self.name, width)}; use an adapter that was made for this model"
        )


def _low_rank(one: _Layer, alpha: tuple[str, torch.Tensor] | None, settings: Mapping[str, Any]) -> LoraLayer:
    if not {"down", "up"} <= one.parts.keys():
        one.half()
    if strange := set(one.parts) - {"down", "up", "mid", "magnitude"}:
        one.about.refuse(f"has two kinds of change for {one.name} ({one.parts[min(strange)][0]}): keep one of them")
    (down_key, down), (up_key, up) = one.parts["down"], one.parts["up"]
    down, up = down.float(), up.float()
    if "mid" in one.parts:
        down = _with_middle(one.about, down, *one.parts["mid"])
    has = one.module.weight.shape
    kernel = has[2:]
    if math.prod(kernel) == 1:
        # Some tools write a linear layer as a convolution of one point, others the other way round.
        down, up = (_reshaped(tensor, len(has)) for tensor in (down, up))
    rank = down.shape[0] if down.dim() else 0
    if not rank or down.shape != (rank, has[1], *kernel) or up.shape != (has[0], rank, *(1 for _ in kernel)):
        one.misfit(down.shape[1] if down.dim() > 1 else 0)
    return LoraLayer(
        down=one.cast(down_key, down),
        up=one.cast(up_key, up),
        scale=_scale(one.about, one.name, rank, alpha, settings),
    )


def _kronecker(one: _Layer, alpha: tuple[str, torch.Tensor] | None, settings: Mapping[str, Any]) -> LokrLayer:
    first, second = one.factors("lokr_w1", "lokr_w1"), one.factors("lokr_w2", "lokr_t2")
    if len(first) > 1 or len(second) > 1:
        rank = (second if len(second) > 1 else first)[-1].shape[0]
        scale = _scale(one.about, one.name, rank, alpha, settings)
    else:
        # LyCORIS ignores alpha where both are whole (and float16 files have inf there); PEFT, which writes none into
        # the file, does not.
        rank = int(settings.get("r") or 1)
        scale = _scale(one.about, one.name, rank, None, settings) if alpha is None else 1.0
    return LokrLayer(first=first, second=second, shape=tuple(one.module.weight.shape), scale=scale)


def _full(one: _Layer, roles: set[str]) -> FullLayer:
    if not roles or not roles <= {"diff", "diff_b"}:
        one.misfit() if roles else one.half()
    has = one.module.weight.shape
    weight, bias = (one.take(role) if role in roles else None for role in ("diff", "diff_b"))
    if weight is not None and weight.shape != has and weight.numel() == has.numel() == math.prod(weight.shape[:2]):
        weight = weight.reshape(has)
    if (weight is not None and weight.shape != has) or (bias is not None and bias.shape != has[:1]):
        one.misfit()
    return FullLayer(weight=weight, bias=bias)


def _dora(one: _Layer, change: WeightChange) -> DoraLayer:
    key, magnitude = one.parts["magnitude"]
    has = one.module.weight.shape
    # PEFT's are of outputs, whatever they look like: (1, out, 1, 1) of a convolution.
    if magnitude.dim() > 1 and magnitude.shape[:2] == (1, has[1]) and "dora_scale" in key:
        one.about.refuse(
            f"is a DoRA that scales the inputs of a layer ({key}, {tuple(magnitude.shape)}), which is not supported: "
            "train it with wd_on_output, LyCORIS's default"
        )
    if magnitude.numel() != has[0]:
        one.misfit()
    if not bool(torch.isfinite(magnitude.float()).all()):
        one.about.refuse(f"has values that are not finite in {one.name} ({key}): train or copy it again")
    return dora(change, magnitude, one.module.weight)


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
        # Of LoRA `lora_alpha`, of LoHa and LoKr `alpha`.
        given = settings.get("lora_alpha", settings.get("alpha", rank))
        key, alpha = "lora_alpha", float(given if pattern is None else patterns[pattern])
    if not math.isfinite(alpha):
        about.refuse(f"has an alpha that is not finite ({key} of {layer}): save it in fp32")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _peft_settings(about: _File, config: bytes) -> dict[str, Any]:
    """Return the settings in adapter_config.json, named as in a header: PEFT's own file changes the UNet alone."""
    try:
        settings = json.loads(config)
        numbers = [settings.get(name) for name in ("lora_alpha", "alpha", "r")]
        for number in [*numbers, *(settings.get("alpha_pattern") or {}).values()]:
            float(1 if number is None else number)
    except (ValueError, TypeError, AttributeError) as error:
        about.refuse(f"has an adapter_config.json beside it that cannot be read ({_first_line(error)}): copy it again")
    return {f"{UNET}.{name}": value for name, value in settings.items() if value is not None}


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
