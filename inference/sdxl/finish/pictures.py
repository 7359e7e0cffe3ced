"""Decodes finished latents to pictures, and encodes pictures to files: the same bytes every time.

A few rows are decoded together. Their number has a limit of its own, because a device's memory peaks in the VAE. On a
GPU the bytes are copied through pinned memory, so that this lane waits only for its own stream. A file contains nothing
of the worker, the attempt or the time, because its digest is part of its name.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from darkroom.inference.sdxl.streams import fetched
from darkroom.inference.types import FaultKind, RenderedImage, RenderFault
from darkroom.schemas.names import CONTENT_TYPES, EXTENSIONS

PNG_COMPRESS_LEVEL: Final = 1
"""zlib's fastest level: at 6 a painted picture is hardly smaller and takes several times as long."""


def vae_dtype(dtype: torch.dtype, *, overflows: bool) -> torch.dtype:
    """Return the dtype of the VAE's weights.

    SDXL's own VAE overflows in fp16, and its configuration says so (`force_upcast`). diffusers' pipelines convert it to
    fp32 and back for each decode; here it is fp32 from the start.
    """
    return torch.float32 if dtype is torch.float16 and overflows else dtype


def decode_latents(vae: Any, latents: torch.Tensor) -> list[Image.Image | RenderFault]:
    """Decode (rows, channels, height, width) latents to RGB pictures of the VAE's factor times that size.

    A picture with a value that is not finite becomes a fault of its request, `render_failed`: converted to bytes it
    would be a black or white picture that looks like a success.
    """
    decoded = decode_colours(vae, latents)
    finite = torch.isfinite(decoded).flatten(1).all(dim=1)
    # From -1..1 to 0..255, rounding half to even, as diffusers' image processor does.
    levels = ((decoded * 0.5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    pixels = fetched(levels).numpy()
    return [
        Image.fromarray(pixels[place], mode="RGB") if is_finite else _not_finite()
        for place, is_finite in enumerate(finite.tolist())
    ]


def decode_colours(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode (rows, channels, height, width) latents to (rows, 3, height, width) fp32 colours, about -1 to 1."""
    decoded: torch.Tensor = vae.decode(_unscale(vae.config, latents.to(vae.dtype)), return_dict=False)[0]
    return decoded.float()


def encode_picture(
    picture: Image.Image, *, image_format: str, quality: int, seed: int, text: Mapping[str, str]
) -> RenderedImage:
    """Encode an RGB picture as `png`, `webp` or `jpeg`.

    `text` goes into PNG's text chunks; the other formats have none. `quality` (1 to 100) applies to the other formats.
    Raises `RenderFault` of the request for any other format.
    """
    if image_format not in CONTENT_TYPES:
        raise RenderFault(
            FaultKind.REQUEST,
            "invalid_request",
            f"There is no picture format {image_format!r}: use {', '.join(CONTENT_TYPES)}.",
        )
    buffer = io.BytesIO()
    if image_format == "png":
        picture.save(buffer, "PNG", compress_level=PNG_COMPRESS_LEVEL, pnginfo=_text_chunks(text))
    else:
        picture.save(buffer, image_format.upper(), quality=quality)
    return RenderedImage(
        content=buffer.getvalue(),
        width=picture.width,
        height=picture.height,
        seed=seed,
        content_type=CONTENT_TYPES[image_format],
        extension=EXTENSIONS[image_format],
    )


def _not_finite() -> RenderFault:
    return RenderFault(
        FaultKind.REQUEST,
        "render_failed",
        "The picture has values that are not finite: try another seed, less guidance or a smaller control scale.",
    )


def _unscale(config: Mapping[str, Any], latents: torch.Tensor) -> torch.Tensor:
    """Undo the scaling with which the UNet was trained, by mean and deviation if the VAE's configuration has them."""
    scaling_factor: float = config["scaling_factor"]
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return latents / scaling_factor
    return latents * _by_channel(config["latents_std"], latents) / scaling_factor + _by_channel(
        config["latents_mean"], latents
    )


def _by_channel(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)


def _text_chunks(text: Mapping[str, str]) -> PngInfo:
    chunks = PngInfo()
    for key, value in text.items():
        # `add_text` falls back to an international chunk for characters outside Latin-1.
        chunks.add_text(key, value)
    return chunks
