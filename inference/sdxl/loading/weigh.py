"""How large a model is, from its configurations alone: its networks are built on the meta device, without weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from darkroom.inference.contract import ModelError
from darkroom.inference.planning.memory_model import ModelSize
from darkroom.inference.sdxl.loading.headers import read_json

_DIFFUSERS: Final[Mapping[str, Any]] = {
    "unet": UNet2DConditionModel,
    "controlnet": ControlNetModel,
    "vae": AutoencoderKL,
}
_TRANSFORMERS: Final[Mapping[str, Any]] = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}


def weigh(folders: Mapping[str, Path]) -> ModelSize:
    """The size of a model whose parts have their `config.json` in `folders`.

    The parts are unet, controlnet (may be missing), vae, text_encoder and text_encoder_2. Takes a second or two for
    SDXL. Raises `ModelError` for a configuration that is none of theirs.
    """
    configs = {part: read_json(folder / "config.json") for part, folder in folders.items()}
    parameters = {part: _parameters(part, config, folders[part]) for part, config in configs.items()}
    vae = configs["vae"]
    vae_channels = vae["block_out_channels"]
    side = vae.get("sample_size", 1024)
    height, width = side if isinstance(side, list) else (side, side)
    return ModelSize(
        unet=parameters["unet"],
        controlnet=parameters.get("controlnet", 0),
        text_encoders=parameters["text_encoder"] + parameters["text_encoder_2"],
        vae=parameters["vae"],
        unet_channels=configs["unet"]["block_out_channels"][0],
        vae_channels=vae_channels[0],
        latent_factor=2 ** (len(vae_channels) - 1),
        tile_pixels=height * width,
        vae_overflows=bool(vae.get("force_upcast", True)),
    )


def _parameters(part: str, config: Mapping[str, Any], folder: Path) -> int:
    try:
        with torch.device("meta"):
            if part in _DIFFUSERS:
                network = _DIFFUSERS[part].from_config(config)
            else:
                network = _TRANSFORMERS[part](CLIPTextConfig.from_dict(dict(config)))
    # Whatever the libraries make of a configuration that is not one of theirs.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise ModelError(
            f"{folder / 'config.json'} does not describe SDXL's {part} ({type(error).__name__}: {reason}): "
            "copy the model again, and check that it is an SDXL model."
        ) from error
    return sum(parameter.numel() for parameter in network.parameters())
