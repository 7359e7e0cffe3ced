"""LoRA files for the tiny model, with an effect that can be seen, in the layouts that such files have."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

ATTENTION = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_k", "attn2.to_v")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
CONVOLUTIONS = (
    "conv_in",
    "down_blocks.0.downsamplers.0.conv",
    "down_blocks.1.resnets.0.conv1",
    "down_blocks.1.resnets.0.time_emb_proj",
    "up_blocks.1.resnets.0.conv_shortcut",
    "add_embedding.linear_1",
)
TEXT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


class Layers:
    """Draws pairs of tensors for layers of the tiny model's networks, the same for the same seed."""

    def __init__(self, networks: Mapping[str, torch.nn.Module], seed: int, strength: float = 1.0) -> None:
        self._networks = networks
        self._generator = torch.Generator().manual_seed(seed)
        self._strength = strength

    def pair(self, network: str, name: str, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        module: Any = self._networks[network].get_submodule(name)
        outputs, inputs, *kernel = module.weight.shape
        down = torch.randn(rank, inputs, *kernel, generator=self._generator) / inputs**0.5
        up = torch.randn(outputs, rank, *(1 for _ in kernel), generator=self._generator) * self._strength / rank**0.5
        return down, up


def transformer_layers(unet: torch.nn.Module, kinds: Sequence[str]) -> list[str]:
    """The names of these layers in every transformer block."""
    return [name for name, _ in unet.named_modules() if "transformer_blocks" in name and name.endswith(tuple(kinds))]


def peft_file(
    file: Path, layers: Layers, names: Mapping[str, Sequence[str]], *, rank: int = 4, lora_alpha: float | None = None
) -> None:
    """In PEFT's names, as diffusers' `save_lora_weights` writes them, with its settings in the header."""
    tensors: Tensors = {}
    for network, its_names in names.items():
        for name in its_names:
            down, up = layers.pair(network, name, rank)
            # transformers' encoder has lost a level of names that files keep.
            written = f"text_model.{name}" if network == "text_encoder" else name
            tensors |= {f"{network}.{written}.lora_A.weight": down, f"{network}.{written}.lora_B.weight": up}
    metadata = {"format": "pt"}
    if lora_alpha is not None:
        settings = {f"{network}.r": rank for network in names}
        settings |= {f"{network}.lora_alpha": lora_alpha for network in names}  # type: ignore[misc]
        settings |= {f"{network}.target_modules": list(its_names) for network, its_names in names.items()}  # type: ignore[misc]
        metadata["lora_adapter_metadata"] = json.dumps(settings)
    save_file(tensors, file, metadata=metadata)


def kohya_file(
    file: Path, layers: Layers, unet: Sequence[str], text: Sequence[str], *, rank: int = 4, alpha: float = 2.0
) -> None:
    """In kohya's names, which are those of SDXL's first release with underscores, with an alpha a layer."""
    tensors: Tensors = {}
    for network, name in [
        *(("unet", name) for name in unet),
        *(("text_encoder", name) for name in text),
        *(("text_encoder_2", f"text_model.{name}") for name in text),
    ]:
        down, up = layers.pair(network, name, rank)
        written = _kohya_name(network, name)
        tensors |= {
            f"{written}.lora_down.weight": down,
            f"{written}.lora_up.weight": up,
            f"{written}.alpha": torch.tensor(alpha),
        }
    save_file(tensors, file, metadata={"ss_network_module": "networks.lora"})


def _kohya_name(network: str, name: str) -> str:
    if network != "unet":
        prefix = {"text_encoder": "lora_te1_text_model_", "text_encoder_2": "lora_te2_"}[network]
        return prefix + name.replace(".", "_")
    part, _, inner = name.partition(".transformer_blocks.")
    place = part.split(".")
    # The tiny model has one layer a block: after the first convolution, two input blocks a level, two output blocks.
    blocks: dict[str, Callable[[], str]] = {
        "down_blocks": lambda: f"input_blocks_{1 + 2 * int(place[1])}_1",
        "mid_block": lambda: "middle_block_1",
        "up_blocks": lambda: f"output_blocks_{2 * int(place[1]) + int(place[3])}_1",
    }
    block = blocks[place[0]]()
    return f"lora_unet_{block}_transformer_blocks_{inner.replace('.', '_')}"
