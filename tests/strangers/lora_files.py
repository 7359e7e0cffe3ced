"""What the tests of LoRA files share: layers of the tiny model, matrices for them, and the reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from darkroom.inference.sdxl.loading.lora_file import Lora, parse_lora
from darkroom.inference.sdxl.loading.lora_names import LayerNames

Tensors = dict[str, torch.Tensor]
Networks = dict[str, torch.nn.Module]

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
FIRST = "input_blocks.3.1.transformer_blocks.0.attn1.to_q"
"""The same layer's name in SDXL's first release, where the tiny model has one layer a block."""
CONVOLUTION = "down_blocks.1.resnets.0.conv1"
TEXT = "encoder.layers.0.self_attn.q_proj"
FLAT = f"lora_unet_{FIRST.replace('.', '_')}"
RANK = 4
ON_CPU = dict.fromkeys(("unet", "text_encoder", "text_encoder_2"), torch.device("cpu"))


def drawn(networks: Networks, network: str, layer: str) -> tuple[torch.Tensor, torch.Tensor]:
    weight: Any = networks[network].get_submodule(layer).weight
    out, width, *kernel = weight.shape
    generator = torch.Generator().manual_seed(1)
    down = torch.randn(RANK, width, *kernel, generator=generator)
    return down, torch.randn(out, RANK, *(1 for _ in kernel), generator=generator)


def parsed(file: Path, networks: Networks) -> Lora:
    return parse_lora(file, file.read_bytes(), LayerNames(networks), networks)
