"""darkroom-tiny's configuration, and the untrained model.

SDXL's structure (see `darkroom.inference.tiny.spec`) for 128 pixels. Latents are 16 x 16, with SDXL's factor of 8: at
that size a step of eight rows costs far less than eight steps of one row, on a CPU as on a GPU, and training processes
four times as many pictures an hour as at factor 4.
"""

from __future__ import annotations

from typing import Any, Final

import diffusers
import torch
import transformers
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel

from darkroom.inference.tiny.spec import SPEC
from darkroom.tools.tiny.training.grammar import words
from darkroom.tools.tiny.training.tokenizer import LENGTH, make_tokenizer

_DIFFUSERS: Final[Any] = diffusers
_TRANSFORMERS: Final[Any] = transformers

NATIVE_PX: Final = 128
LATENT_FACTOR: Final = 8
LATENT_CHANNELS: Final = 8
"""Twice SDXL's. After 90 seconds of training 8 channels gave 17.2 dB and 4 gave 14.8: small decoders need more
channels."""
SCALING_FACTOR: Final = 0.13025
"""SDXL's."""
_TEXT_WIDTHS: Final = (64, 96)
_TIME_ID_WIDTH: Final = 32
_ZERO_CONVOLUTION_GAIN: Final = 0.3

_BLOCKS: Final[dict[str, Any]] = {
    "block_out_channels": [48, 96, 128],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1, 1, 1],
    # The number of heads, despite diffusers' name; 16 channels each.
    "attention_head_dim": [3, 6, 8],
    "norm_num_groups": 8,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": _TIME_ID_WIDTH,
    "projection_class_embeddings_input_dim": 6 * _TIME_ID_WIDTH + _TEXT_WIDTHS[1],
    "cross_attention_dim": sum(_TEXT_WIDTHS),
}
UNET: Final[dict[str, Any]] = {
    **_BLOCKS,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "sample_size": NATIVE_PX // LATENT_FACTOR,
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
}
CONTROLNET: Final[dict[str, Any]] = {
    **_BLOCKS,
    "in_channels": LATENT_CHANNELS,
    "conditioning_embedding_out_channels": [8, 16, 32, 64],
}
VAE: Final[dict[str, Any]] = {
    "block_out_channels": [16, 24, 48, 64],
    "layers_per_block": 1,
    # With 8 groups a group would have two channels, whose normalisation keeps little of a flat colour but its sign.
    "norm_num_groups": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": LATENT_CHANNELS,
    "sample_size": NATIVE_PX,
    "scaling_factor": SCALING_FACTOR,
    "force_upcast": True,
}
SCHEDULER: Final[dict[str, Any]] = SPEC["scheduler"]


def make_vae() -> Any:
    """Return an untrained `AutoencoderKL`."""
    vae = _DIFFUSERS.AutoencoderKL(**VAE)
    _silence(vae)
    return vae


def make_tokenizers() -> tuple[Any, Any]:
    """Return both tokenizers: one vocabulary, padded differently, as SDXL's."""
    first, second = (make_tokenizer(words(), SPEC[name]) for name in ("tokenizer", "tokenizer_2"))
    return first, second


def make_denoiser() -> torch.nn.ModuleDict:
    """Return the untrained `unet`, `controlnet`, `text_encoder` and `text_encoder_2`, which are trained together."""
    vocabulary_size = len(make_tokenizers()[0])
    networks = torch.nn.ModuleDict(
        {
            "unet": _DIFFUSERS.UNet2DConditionModel(**UNET),
            "controlnet": _DIFFUSERS.ControlNetModel(**CONTROLNET),
            "text_encoder": _TRANSFORMERS.CLIPTextModel(_text(_TEXT_WIDTHS[0], "quick_gelu", vocabulary_size)),
            "text_encoder_2": _TRANSFORMERS.CLIPTextModelWithProjection(
                _text(_TEXT_WIDTHS[1], "gelu", vocabulary_size)
            ),
        }
    )
    _silence(networks)
    _wake(networks["controlnet"])
    return networks


def make_scheduler() -> Any:
    """Return a scheduler with SDXL's noise schedule."""
    return _DIFFUSERS.EulerDiscreteScheduler(**SCHEDULER)


def _text(width: int, activation: str, vocabulary_size: int) -> Any:
    return _TRANSFORMERS.CLIPTextConfig(
        vocab_size=vocabulary_size,
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=_TEXT_WIDTHS[1],
        num_attention_heads=4,
        num_hidden_layers=2,
        max_position_embeddings=LENGTH,
        hidden_act=activation,
    )


def _silence(networks: torch.nn.Module) -> None:
    """Zero the last layer of residual blocks, so that a network begins as little more than a few convolutions.

    The VAE reaches after 100 steps what it would otherwise reach after 300.
    """
    for module in networks.modules():
        last: Any = None
        if isinstance(module, ResnetBlock2D):
            last = module.conv2
        elif isinstance(module, Transformer2DModel):
            last = module.proj_out
        elif isinstance(module, Attention) and module.residual_connection:
            last = module.to_out[0]
        if last is not None:
            last.weight.data.zero_()


def _wake(controlnet: Any) -> None:
    """Let the pose take effect from the first step on.

    Zero convolutions protect a UNet that is already trained. Here both are trained together from scratch, and with
    zeros the UNet would first learn to ignore the pose.
    """
    with torch.no_grad():
        for convolution in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
            convolution.reset_parameters()
            convolution.weight.mul_(_ZERO_CONVOLUTION_GAIN)
            convolution.bias.zero_()
        encoder = controlnet.controlnet_cond_embedding
        for convolution in (encoder.conv_in, *encoder.blocks, encoder.conv_out):
            # Eight convolutions in a row: with torch's default weights each would pass on a third of its input.
            torch.nn.init.kaiming_normal_(convolution.weight)
            convolution.bias.zero_()
