"""SDXL at its full size without its weights, to measure shapes, memory and speed without a checkpoint.

The configurations are those of SDXL base 1.0 and of the published OpenPose ControlNets for it, written out, so that
nothing is downloaded. Parts built on torch's `meta` device have shapes and no values, and cost nothing. Parts built on
a GPU have random values, and a step takes as much time and memory as with the real model. The pictures are noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import diffusers
import torch
import transformers

# Both libraries make their classes by rules that a type checker cannot follow.
_DIFFUSERS: Final[Any] = diffusers
_TRANSFORMERS: Final[Any] = transformers

_BLOCKS: Final[dict[str, Any]] = {
    "in_channels": 4,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    # The number of heads, despite diffusers' name: 64 channels each.
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    # Six time ids of 256 and the pooled text embedding of 1280.
    "projection_class_embeddings_input_dim": 2816,
    "cross_attention_dim": 2048,
}

_TEXT: Final[dict[str, Any]] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}

FULL_SIZE: Final[dict[str, dict[str, Any]]] = {
    "unet": {
        **_BLOCKS,
        "sample_size": 128,
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    },
    "controlnet": {**_BLOCKS, "conditioning_embedding_out_channels": (16, 32, 96, 256)},
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    },
    "text_encoder": {
        **_TEXT,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
        "hidden_act": "quick_gelu",
    },
    "text_encoder_2": {
        **_TEXT,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "projection_dim": 1280,
        "hidden_act": "gelu",
    },
    "scheduler": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "timestep_spacing": "leading",
    },
}
"""By part, as in the `config.json` of each folder; copied from the checkpoints' own configurations."""


@dataclass(frozen=True, slots=True)
class FullSize:
    """The parts of SDXL base 1.0 with an OpenPose ControlNet, with random weights, in eval mode, without gradients."""

    unet: Any
    controlnet: Any | None
    vae: Any
    text_encoders: tuple[Any, Any]
    """CLIP ViT-L, then OpenCLIP bigG with its projection."""


def full_size_components(
    device: torch.device | str, dtype: torch.dtype, *, controlnet: bool = True, vae_dtype: torch.dtype | None = None
) -> FullSize:
    """Build the parts on `device` in `dtype`; about 8 GB of weights there in fp16, none on `meta`.

    `vae_dtype` defaults to `dtype`; SDXL's real VAE overflows in fp16 and needs fp32, random weights do not. Weights
    are drawn by torch's own rules from its global random state on that device. The ControlNet's last convolutions,
    which normally start at zero, are drawn like the others, so that it has an effect.
    """
    with torch.device(device):
        control = None
        if controlnet:
            control = _DIFFUSERS.ControlNetModel(**FULL_SIZE["controlnet"])
            for convolution in (*control.controlnet_down_blocks, control.controlnet_mid_block):
                convolution.reset_parameters()
            control.controlnet_cond_embedding.conv_out.reset_parameters()
            control = _ready(control, dtype)
        return FullSize(
            unet=_ready(_DIFFUSERS.UNet2DConditionModel(**FULL_SIZE["unet"]), dtype),
            controlnet=control,
            vae=_ready(_DIFFUSERS.AutoencoderKL(**FULL_SIZE["vae"]), vae_dtype or dtype),
            text_encoders=(
                _ready(_TRANSFORMERS.CLIPTextModel(_text_config("text_encoder")), dtype),
                _ready(_TRANSFORMERS.CLIPTextModelWithProjection(_text_config("text_encoder_2")), dtype),
            ),
        )


def _text_config(part: str) -> Any:
    return _TRANSFORMERS.CLIPTextConfig(**FULL_SIZE[part])


def _ready(network: Any, dtype: torch.dtype) -> Any:
    return network.to(dtype=dtype).eval().requires_grad_(False)
