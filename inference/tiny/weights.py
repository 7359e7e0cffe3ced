"""Draws the tiny model's weights and writes them as diffusers folders.

Everything is drawn from one seed on the CPU in fp32, so that two machines with the same libraries get the same bytes,
and with them the same model revision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from darkroom.inference.quiet import no_progress_bars
from darkroom.inference.tiny.spec import SPEC

# Both libraries make their classes by rules that a type checker cannot follow.
_DIFFUSERS: Final[Any] = diffusers
_TRANSFORMERS: Final[Any] = transformers


def write_model(folder: Path) -> None:
    """Write `folder/model` (a `StableDiffusionXLPipeline` folder) and `folder/controlnet`, fp32 safetensors.

    Leaves torch's global random state unchanged. Raises `OSError` if the folder cannot be written.
    """
    networks = _draw_networks()
    controlnet = networks.pop("controlnet")
    parts = {
        **networks,
        "tokenizer": _tokenizer(SPEC["tokenizer"]),
        "tokenizer_2": _tokenizer(SPEC["tokenizer_2"]),
        "scheduler": _DIFFUSERS.EulerDiscreteScheduler(**SPEC["scheduler"]),
    }
    with no_progress_bars():
        for name, part in parts.items():
            part.save_pretrained(folder / "model" / name)
        controlnet.save_pretrained(folder / "controlnet")
    (folder / "model" / "model_index.json").write_text(json.dumps(pipeline_index(parts), indent=2))


def _draw_networks() -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(SPEC["seed"])
        networks: dict[str, Any] = {
            "unet": _DIFFUSERS.UNet2DConditionModel(**SPEC["unet"]),
            "vae": _DIFFUSERS.AutoencoderKL(**SPEC["vae"]),
            "text_encoder": _TRANSFORMERS.CLIPTextModel(_text_config("text_encoder")),
            "text_encoder_2": _TRANSFORMERS.CLIPTextModelWithProjection(_text_config("text_encoder_2")),
            "controlnet": _DIFFUSERS.ControlNetModel(**SPEC["controlnet"]),
        }
        networks["unet"].conv_out.weight.mul_(SPEC["unet_output_gain"])
        networks["vae"].decoder.conv_out.weight.mul_(SPEC["vae_output_gain"])
        _wake(networks["controlnet"])
    return networks


def _text_config(name: str) -> Any:
    return _TRANSFORMERS.CLIPTextConfig(**SPEC[name])


def _wake(controlnet: Any) -> None:
    """Draw ordinary weights for the convolutions that start at zero, and strengthen the pose encoder.

    The pose encoder has eight convolutions in a row, each of which passes on a third of its input when freshly drawn.
    """
    pose_encoder = controlnet.controlnet_cond_embedding
    for convolution in (pose_encoder.conv_out, *controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        convolution.reset_parameters()
    for convolution in (pose_encoder.conv_in, *pose_encoder.blocks, pose_encoder.conv_out):
        convolution.weight.mul_(SPEC["pose_encoder_gain"])
        convolution.bias.zero_()


def _tokenizer(settings: Mapping[str, Any]) -> Any:
    """Return a CLIP tokenizer without merges: one token per byte, so about 75 characters of prompt."""
    characters = sorted(ByteLevel.alphabet())
    words = [*characters, *(f"{character}</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return _TRANSFORMERS.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77, **settings)


def pipeline_index(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `model_index.json`: the pipeline's class, and each part's library and class."""
    libraries = {name: type(part).__module__.partition(".")[0] for name, part in parts.items()}
    return {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": _DIFFUSERS.__version__,
        "force_zeros_for_empty_prompt": True,
        **{name: [libraries[name], type(part).__name__] for name, part in parts.items()},
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
