"""Full-size folders with random weights, as both sides load them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from darkroom.inference.quiet import no_progress_bars
from darkroom.inference.tiny import TinyModel, ensure_tiny_model

SEED = 20261124


@torch.inference_mode()
def write_full_size(folder: Path, device: torch.device, dtype: torch.dtype) -> TinyModel:
    """A pipeline's and a ControlNet's folder under `folder`, safetensors in `dtype`, about 10 GB in half precision.

    The tokenizers are the tiny model's: their ids are within the large vocabulary, and which words they stand for is
    nothing to random weights.
    """
    from darkroom.inference.sdxl.loading.full_size import FULL_SIZE, full_size_components

    torch.manual_seed(SEED)
    parts = full_size_components(device, dtype)
    predict_unit_noise(parts.unet, device, dtype)
    return write_folders(folder, parts, FULL_SIZE["scheduler"])


def write_folders(folder: Path, parts: Any, scheduler: Mapping[str, Any]) -> TinyModel:
    """The parts of `darkroom.inference.sdxl.loading.full_size.FullSize` as `folder/model` and `folder/controlnet`."""
    tiny = ensure_tiny_model()
    model, controlnet = folder / "model", folder / "controlnet"
    shutil.copytree(tiny.path, model, ignore=shutil.ignore_patterns("*.safetensors", "unet", "vae", "text_encoder*"))
    library: Any = diffusers
    with no_progress_bars():
        for name, part in {
            "unet": parts.unet,
            "vae": parts.vae,
            "text_encoder": parts.text_encoders[0],
            "text_encoder_2": parts.text_encoders[1],
            "scheduler": library.EulerDiscreteScheduler(**scheduler),
        }.items():
            part.save_pretrained(model / name)
        parts.controlnet.save_pretrained(controlnet)
    return TinyModel(name="full-size", path=model, controlnet_path=controlnet)


def predict_unit_noise(unet: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Scale the last convolution so that predictions have the size of noise, as a trained UNet's have.

    A freshly drawn UNet predicts next to nothing; then any two loops would agree on what is left, the noise.
    """
    config = unet.config
    pooled_width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    predicted = unet(
        torch.randn(1, config.in_channels, 64, 64, device=device, dtype=dtype),
        torch.tensor([500.0], device=device),
        encoder_hidden_states=torch.randn(1, 77, config.cross_attention_dim, device=device, dtype=dtype),
        added_cond_kwargs={
            "text_embeds": torch.randn(1, pooled_width, device=device, dtype=dtype),
            "time_ids": torch.tensor([[512, 512, 0, 0, 512, 512]], device=device, dtype=dtype),
        },
        return_dict=False,
    )[0]
    unet.conv_out.weight.div_(predicted.float().std().to(dtype))
