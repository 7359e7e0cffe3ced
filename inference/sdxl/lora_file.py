"""Reads a LoRA file: which layers of which networks it changes, and by what.

A LoRA gives a layer W x + b a second road beside it: W x + b + scale * up(down(x)), with scale = alpha / rank
(Hu et al. 2021, "LoRA", section 4.1). Files come in several layouts: diffusers', PEFT's and kohya's names, alphas as
tensors, as metadata or not at all (then alpha is the rank). The names are converted by diffusers' own functions, so a
file that its pipelines read is read here; what is left over is refused, where diffusers would paint without it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.utils.state_dict_utils import (
    DIFFUSERS_OLD_TO_PEFT,
    DIFFUSERS_TO_PEFT,
    UNET_TO_DIFFUSERS,
    convert_state_dict,
)

Networks = Mapping[str, torch.nn.Module]
"""The networks that a LoRA may change, by their names in its files: unet, text_encoder, text_encoder_2."""

UNET: Final = "unet"
_METADATA: Final = "lora_adapter_metadata"
"""Under this name diffusers keeps PEFT's settings in a file's header."""
_HEADER_LENGTH_BYTES: Final = 8
_OTHER_KINDS: Final = {
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "lokr_": "a LoKr",
    "hada_": "a LoHa",
    "oft_": "an OFT",
    "lora_mid": "a LoRA with a middle layer (Tucker)",
    "lora_controlnet": "a Control-LoRA",
}
# It has no types.
_convert: Final[Any] = convert_state_dict
_IN_TEXT: Final = {**DIFFUSERS_TO_PEFT, **DIFFUSERS_OLD_TO_PEFT}
"""The names of a text encoder's layers in diffusers' two layouts, in PEFT's. No name is in both."""


class LoraUnusable(Exception):  # noqa: N818 - it is the file that is unusable
    """A LoRA file that is torn, of another kind or for another model: one sentence."""


@dataclass(frozen=True, slots=True, eq=False)
class LoraLayer:
    """What a LoRA adds to one layer."""

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
    """By network, then by the layer's name in it. Networks that it leaves alone are not there."""

    def tensors(self) -> list[torch.Tensor]:
        """All that it holds."""
        layers = [layer for its_layers in self.layers.values() for layer in its_layers.values()]
        return [tensor for layer in layers for tensor in (layer.down, layer.up)]

    @property
    def size_bytes(self) -> int:
        """What it holds."""
        return sum(tensor.nbytes for tensor in self.tensors())

    @property
    def changes_text(self) -> bool:
        """Whether prompts are encoded differently with it."""
        return any(network != UNET for network in self.layers)


@dataclass(frozen=True, slots=True)
class _Scales:
    """How strongly each layer of one network is changed."""

    alphas: Mapping[str, float]
    """By layer, from the file's tensors."""
    settings: Mapping[str, Any]
    """PEFT's, from the file's header."""

    @classmethod
    def of(cls, network: str, alphas: Mapping[str, float], metadata: Mapping[str, Any]) -> _Scales:
        """Alphas come under the half-converted names of the tensors, so they take the same way on."""
        named: dict[str, Any] = {}
        for key, alpha in _of(network, alphas).items():
            name = key.removesuffix(".alpha")
            named[name if name.endswith(".down.weight") else f"{name}.lora.down.weight"] = alpha
        in_peft_names = _in_peft_names(network, named)
        by_layer = {key.partition(".lora_A.")[0]: alpha for key, alpha in in_peft_names.items()}
        return cls(by_layer, _of(network, metadata))

    def get(self, layer: str, rank: int) -> float:
        """alpha / rank; for rank-stabilised LoRA (Kalajdzievski 2023) alpha / sqrt(rank)."""
        patterns = self.settings.get("alpha_pattern") or {}
        # PEFT's rule: a pattern is a regular expression that the layer's name ends in.
        pattern = next((one for one in patterns if re.match(rf"(.*\.)?({one})$", layer)), None)
        default = self.settings.get("lora_alpha", rank) if pattern is None else patterns[pattern]
        alpha = float(self.alphas.get(layer, default))
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)


def parse_lora(file: Path, content: bytes, networks: Networks) -> Lora:
    """The LoRA in the bytes of `file`, fitted to the networks. Raises `LoraUnusable`."""
    try:
        tensors = safetensors.torch.load(content)
        metadata = _metadata(content)
    except (safetensors.SafetensorError, ValueError) as error:
        raise LoraUnusable(
            f"The adapter file {file} is torn or no safetensors file ({_first_line(error)}): copy it again."
        ) from error
    _refuse_other_kinds(file, tensors)
    try:
        # Given tensors instead of a path, it reads nothing and asks nobody.
        named, alphas = StableDiffusionXLPipeline.lora_state_dict(tensors, unet_config=networks[UNET].config)
        layers = {
            name: _fit(file, name, _of(name, named), _Scales.of(name, alphas or {}, metadata), network)
            for name, network in networks.items()
        }
    except LoraUnusable:
        raise
    # The conversions go by the shape of names, and fail on strange ones in whatever way it happens.
    except Exception as error:
        raise LoraUnusable(
            f"The adapter file {file} is no LoRA of SDXL ({type(error).__name__}: {_first_line(error)}): "
            "use one in diffusers', PEFT's or kohya's layout."
        ) from error
    strangers = [key for key in named if key.partition(".")[0] not in networks]
    if strangers or not any(layers.values()):
        what = f"{strangers[0]} belongs to none of {', '.join(networks)}" if strangers else "it has no tensors"
        raise LoraUnusable(f"The adapter file {file} is no LoRA of SDXL ({what}): use one in a known layout.")
    return Lora({name: its_layers for name, its_layers in layers.items() if its_layers})


def _refuse_other_kinds(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    for key in tensors:
        for mark, kind in _OTHER_KINDS.items():
            if mark in key:
                raise LoraUnusable(
                    f"The adapter file {file} is {kind} ({key}), which is not supported: use a plain LoRA."
                )


def _metadata(content: bytes) -> dict[str, Any]:
    """PEFT's settings from the file's header, by `network.setting`; empty where there are none."""
    length = int.from_bytes(content[:_HEADER_LENGTH_BYTES], "little")
    header = json.loads(content[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + length])
    settings = json.loads(header.get("__metadata__", {}).get(_METADATA) or "{}")
    return settings if isinstance(settings, dict) else {}


def _of(network: str, named: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(f"{network}."): value for key, value in named.items() if key.startswith(f"{network}.")}


def _in_peft_names(network: str, named: dict[str, Any]) -> dict[str, Any]:
    """`layer.lora_A.weight` and `layer.lora_B.weight`, as PEFT and newer files have it."""
    if all(".lora_A." in key or ".lora_B." in key for key in named):
        return dict(named)
    converted: dict[str, Any] = _convert(named, UNET_TO_DIFFUSERS if network == UNET else _IN_TEXT)
    return converted


def _fit(
    file: Path,
    name: str,
    named: dict[str, torch.Tensor],
    scales: _Scales,
    network: torch.nn.Module,
) -> dict[str, LoraLayer]:
    """The layers of one network, each checked against the layer that it is to change."""
    tensors = _in_peft_names(name, named)
    if name != UNET and not hasattr(network, "text_model"):
        # transformers took this level out of one of the two encoders; files still name it.
        tensors = {key.removeprefix("text_model."): value for key, value in tensors.items()}
        scales = _Scales(
            {key.removeprefix("text_model."): value for key, value in scales.alphas.items()}, scales.settings
        )
    modules = dict(network.named_modules())
    layers = {}
    for key in sorted({key.partition(".lora_")[0] for key in tensors}):
        down, up = tensors.pop(f"{key}.lora_A.weight", None), tensors.pop(f"{key}.lora_B.weight", None)
        module = modules.get(key)
        if not isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            raise LoraUnusable(
                f"The adapter file {file} does not fit this model: its {name} has no linear layer or convolution {key}."
            )
        if down is None or up is None:
            raise LoraUnusable(f"The adapter file {file} is not whole, it has half of {name}.{key}: copy it again.")
        _check_shapes(file, f"{name}.{key}", down, up, module)
        scale = scales.get(key, down.shape[0])
        weight = module.weight
        layers[key] = LoraLayer(down.to(weight.dtype), up.to(weight.dtype), scale)
    if tensors:
        raise LoraUnusable(f"The adapter file {file} is no plain LoRA: its tensor {next(iter(tensors))} is not known.")
    return layers


def _check_shapes(
    file: Path, layer: str, down: torch.Tensor, up: torch.Tensor, module: torch.nn.Linear | torch.nn.Conv2d
) -> None:
    rank = down.shape[0]
    has = module.weight.shape
    kernel = has[2:]
    if down.shape != (rank, has[1], *kernel) or up.shape != (has[0], rank, *(1 for _ in kernel)):
        raise LoraUnusable(
            f"The adapter file {file} does not fit this model: its tensors for {layer} are {tuple(down.shape)} and "
            f"{tuple(up.shape)}, and the layer's weight is {tuple(has)}; use an adapter that was made for this model."
        )
    if not (bool(torch.isfinite(down).all()) and bool(torch.isfinite(up).all())):
        raise LoraUnusable(
            f"The adapter file {file} has values that are not finite in {layer}: train or copy it again."
        )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
