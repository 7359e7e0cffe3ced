"""Finds the layer that a tensor of a LoRA file belongs to, in every naming scheme of the common tools.

A layer of the UNet has two names: diffusers', and that of SDXL's first release. Files write either of them with dots
after a prefix, or with underscores after kohya's prefix. Names with underscores cannot be split without knowing the
layers, so all possible names are generated from the networks and looked up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import torch

from darkroom.inference.sdxl.loading.lora_layers import LAYERS

UNET: Final = "unet"
Networks = Mapping[str, torch.nn.Module]
"""The networks that a LoRA may change, by their names in its files: unet, text_encoder, text_encoder_2."""

PEFT_PREFIX: Final = "base_model.model."
"""Prefix of all names in a file that PEFT itself wrote."""
_DOTTED: Final[Mapping[str, tuple[str, ...]]] = {
    UNET: (
        "unet.",
        f"{PEFT_PREFIX}unet.",
        f"{PEFT_PREFIX}diffusion_model.",
        PEFT_PREFIX,
        "model.diffusion_model.",
        "diffusion_model.",
        "",
    ),
    "text_encoder": ("text_encoder.", "text_encoders.clip_l.transformer.", "clip_l.transformer."),
    "text_encoder_2": ("text_encoder_2.", "text_encoders.clip_g.transformer.", "clip_g.transformer."),
}
"""Prefixes with dots: of diffusers, PEFT's own files, ComfyUI, and diffusers' oldest files, which name no network."""
_FLAT: Final[Mapping[str, tuple[str, ...]]] = {
    UNET: ("lora_unet_", "lycoris_"),
    "text_encoder": ("lora_te1_", "lora_te_"),
    "text_encoder_2": ("lora_te2_",),
}
"""Prefixes with underscores: of kohya's scripts and of LyCORIS's wrapper."""
_FACTORS: Final = (
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
)
"""Endings of LoHa's and LoKr's tensors, which name their roles."""
_ENDS: Final = (
    (re.compile(r"\.lora_A(\.[^.]+)?\.weight$"), "down"),
    (re.compile(r"\.lora_B(\.[^.]+)?\.weight$"), "up"),
    (re.compile(r"(\.lora_|\.lora\.|_lora\.|\.lora_linear_layer\.)down\.weight$"), "down"),
    (re.compile(r"(\.lora_|\.lora\.|_lora\.|\.lora_linear_layer\.)up\.weight$"), "up"),
    (re.compile(r"\.lora_mid\.weight$"), "mid"),
    (re.compile(r"(\.lora)?\.alpha$"), "alpha"),
    (re.compile(r"(\.dora_scale|\.lora_magnitude_vector(\.[^.]+)??(\.weight)?)$"), "magnitude"),
    (re.compile(r"\.(diff|w_norm)$"), "diff"),
    (re.compile(r"\.(diff_b|b_norm)$"), "diff_b"),
    *((re.compile(rf"\.{role}$"), role) for role in _FACTORS),
)
"""Endings of names, and the role of the tensor. PEFT puts an adapter's name into the middle of the first two."""
_RESNET: Final = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE: Final = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


class TensorPlace(NamedTuple):
    """A layer, and the role of one of its tensors."""

    network: str
    layer: str
    """The layer's name in the network."""
    role: str
    """`down`, `up`, `mid`, `alpha`, `magnitude`, `diff`, `diff_b`, or the name of a factor of LoHa or LoKr."""


class LayerNames:
    """All names that a file may give to a linear layer, a convolution or a norm of the networks."""

    def __init__(self, networks: Networks) -> None:
        self._layers: dict[str, tuple[str, str]] = {}
        for network, module in networks.items():
            for layer, names in _names_of(network, module):
                for name in names:
                    written = [prefix + name for prefix in _DOTTED[network]]
                    written += [prefix + name.replace(".", "_") for prefix in _FLAT[network]]
                    # LyCORIS's prefix and the empty one belong to the UNet, which comes first.
                    for one in written:
                        self._layers.setdefault(one, (network, layer))

    def find(self, key: str) -> TensorPlace | str | None:
        """Return the place of a tensor, the name of a layer that the networks lack, or None if it is not a LoRA's
        tensor."""
        for pattern, role in _ENDS:
            found = pattern.search(key)
            if found is None:
                continue
            name = key[: found.start()]
            if found[0].startswith("_lora."):
                name = _from_processor(name)
            layer = self._layers.get(name)
            return name if layer is None else TensorPlace(*layer, role)
        return None


def _names_of(network: str, module: torch.nn.Module) -> Iterator[tuple[str, set[str]]]:
    """Yield each layer that a LoRA can change, with its names in files."""
    blocks = _first_release_blocks(module) if network == UNET else {}
    for layer, one in module.named_modules():
        if not isinstance(one, LAYERS):
            continue
        if network == UNET:
            around = [name for name in blocks if layer == name or layer.startswith(f"{name}.")]
            block = max(around, key=len, default=None)
            first = set() if block is None else {blocks[block] + _inside(layer.removeprefix(block))}
            yield layer, {layer, *first}
        else:
            # transformers removed this level from one of the two encoders; files still name it.
            bare = layer.removeprefix("text_model.")
            yield layer, {bare, f"text_model.{bare}"}


def _first_release_blocks(unet: Any) -> dict[str, str]:
    """Return the name in SDXL's first release of every block of the UNet, by diffusers' name."""
    names = dict(_OUTSIDE)
    number = 1
    for level, block in enumerate(unet.down_blocks):
        for place in range(len(block.resnets)):
            names[f"down_blocks.{level}.resnets.{place}"] = f"input_blocks.{number}.0"
            names[f"down_blocks.{level}.attentions.{place}"] = f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers is not None:
            names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for level, block in enumerate(unet.up_blocks):
        for place in range(len(block.resnets)):
            names[f"up_blocks.{level}.resnets.{place}"] = f"output_blocks.{number}.0"
            names[f"up_blocks.{level}.attentions.{place}"] = f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers is not None:
            after = 2 if hasattr(block, "attentions") else 1
            names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{after}.conv"
    return names


def _inside(rest: str) -> str:
    """Translate the part of a name within a block, such as `.conv1` to `.in_layers.2`."""
    first, dot, after = rest.removeprefix(".").partition(".")
    return f".{_RESNET[first]}{dot}{after}" if first in _RESNET else rest


def _from_processor(name: str) -> str:
    """Translate a name of diffusers' first LoRAs, such as `....attn1.processor.to_q`, to its layer."""
    if name.startswith("text_encoder"):
        projection = name.rpartition(".")[2].removeprefix("to_")
        return f"{name.rpartition('.')[0]}.{projection}_proj"
    layer = name.replace(".processor.", ".")
    return f"{layer}.0" if layer.endswith(".to_out") else layer
