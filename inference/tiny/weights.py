"""Draws the tiny model's weights and writes them as diffusers folders.

Everything comes from one seed and is drawn on the CPU in fp32, so that two machines with the same libraries get the
same bytes, and with them the same model revision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from inference.tiny.spec import SPEC


def write_model(folder: Path) -> None:
    """Write `folder/model` (a pipeline folder) and `folder/controlnet`, fp32 safetensors.

    Leaves torch's own random state as it was. Raises `OSError` where the folder cannot be written.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SPEC["seed"])
        unet = UNet2DConditionModel(**SPEC["unet"])
        controlnet = ControlNetModel(**SPEC["controlnet"])
        vae = AutoencoderKL(**SPEC["vae"])
        text_encoder = CLIPTextModel(CLIPTextConfig(**SPEC["text_encoder"]))
        text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**SPEC["text_encoder_2"]))
        with torch.no_grad():
            _wake_controlnet(controlnet)
            unet.conv_out.weight.mul_(SPEC["unet_output_gain"])
            vae.decoder.conv_out.weight.mul_(SPEC["vae_output_gain"])
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=_tokenizer(SPEC["tokenizer"]),
        tokenizer_2=_tokenizer(SPEC["tokenizer_2"]),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SPEC["scheduler"]),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder / "model", safe_serialization=True)
    controlnet.save_pretrained(folder / "controlnet", safe_serialization=True)


def _wake_controlnet(controlnet: ControlNetModel) -> None:
    """Give the convolutions that start at zero the weights any other convolution would start with."""
    sleeping = [
        controlnet.controlnet_cond_embedding.conv_out,
        *controlnet.controlnet_down_blocks,
        controlnet.controlnet_mid_block,
    ]
    for convolution in sleeping:
        convolution.reset_parameters()
        convolution.weight.mul_(SPEC["controlnet_gain"])


def _tokenizer(settings: dict[str, Any]) -> CLIPTokenizer:
    """A CLIP tokenizer without merges: one token a byte, so about 75 characters of prompt."""
    characters = sorted(ByteLevel.alphabet())
    words = [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, **settings)
