"""Whether loaded components are an SDXL model that this package renders rightly.

Each check names a difference that would otherwise end in a tensor error deep inside of a forward, or worse, in a
picture that is quietly wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from darkroom.inference.contract import ModelError


def check_fit(
    path: Path,
    *,
    unet: Any,
    vae: Any,
    text_encoders: Sequence[Any],
    controlnet: Any | None,
) -> None:
    """Raises `ModelError` with the first thing that does not fit."""
    for fits, what in (
        *_base_checks(unet.config, vae.config, [encoder.config for encoder in text_encoders]),
        *(() if controlnet is None else _controlnet_checks(controlnet.config, unet.config, vae.config)),
    ):
        if not fits:
            raise ModelError(f"The model in {path} cannot be used: {what}.")


def _base_checks(unet: Any, vae: Any, texts: Sequence[Any]) -> list[tuple[bool, str]]:
    pooled = texts[-1].projection_dim
    token_width = sum(text.hidden_size for text in texts)
    return [
        (
            unet.addition_embed_type == "text_time",
            "its UNet takes no size and text embeddings (addition_embed_type), so it is not SDXL",
        ),
        (
            unet.time_cond_proj_dim is None,
            "its UNet takes the guidance scale as an input (time_cond_proj_dim), as few-step models do; "
            "use a model that is guided by a negative prompt",
        ),
        (
            unet.in_channels == vae.latent_channels,
            f"its UNet takes {unet.in_channels} channels and its VAE has {vae.latent_channels}; "
            "inpainting models are not supported",
        ),
        (
            unet.cross_attention_dim == token_width,
            f"its UNet takes text of width {unet.cross_attention_dim} and its two encoders give {token_width}",
        ),
        (
            unet.projection_class_embeddings_input_dim == 6 * unet.addition_time_embed_dim + pooled,
            "its UNet does not take six time ids and this pooled text embedding; refiner models are not supported",
        ),
    ]


def _controlnet_checks(controlnet: Any, unet: Any, vae: Any) -> list[tuple[bool, str]]:
    picture_factor = 2 ** (len(controlnet.conditioning_embedding_out_channels) - 1)
    latent_factor = 2 ** (len(vae.block_out_channels) - 1)
    same = ("block_out_channels", "layers_per_block", "cross_attention_dim", "addition_embed_type")
    different = [name for name in same if _plain(getattr(controlnet, name)) != _plain(getattr(unet, name))]
    return [
        (
            not controlnet.global_pool_conditions,
            "its ControlNet pools its output over the picture (global_pool_conditions), which a pose cannot use",
        ),
        (
            not different,
            f"its ControlNet was not made for this UNet, they differ in {' and '.join(different)}; "
            "use a ControlNet for SDXL",
        ),
        (
            picture_factor == latent_factor,
            f"its ControlNet reduces the control picture {picture_factor} times and its VAE {latent_factor} times",
        ),
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
