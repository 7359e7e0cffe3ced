"""Decodes finished latents to pictures, and encodes pictures to files: the same bytes every time.

A few rows are decoded together. Their number has a limit of its own, because a device's memory peaks in the VAE. On a
GPU the bytes are copied through pinned memory, so that this lane waits only for its own stream. A file contains nothing
of the worker, the attempt or the time, because its digest is part of its name.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from isal import isal_zlib
from PIL import Image

from darkroom.inference.marks import embedded, png_text
from darkroom.inference.png import RGB, png_file
from darkroom.inference.sdxl.streams import fetched
from darkroom.inference.types import FaultKind, RenderedImage, RenderFault
from darkroom.schemas.names import CONTENT_TYPES, EXTENSIONS

PNG_COMPRESS_LEVEL: Final = 1
"""ISA-L's second of four levels: as fast as level 0 and a seventh smaller. Levels 2 and 3 are slower and no smaller."""
PNG_FILTER_UP: Final = 2
"""Each byte less the one above it (PNG specification, third edition, 9.2). Painted pictures come out about as large as
with the best filter for each row, which takes longer to choose than everything else together."""


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

    `text` goes to where the format has room for it (`darkroom.inference.marks`), and the picture is marked as made by a
    model. `quality` (1 to 100) applies to the other formats.
    Raises `RenderFault` of the request for any other format.
    """
    if image_format not in CONTENT_TYPES:
        raise RenderFault(
            FaultKind.REQUEST,
            "invalid_request",
            f"There is no picture format {image_format!r}: use {', '.join(CONTENT_TYPES)}.",
        )
    if image_format == "png":
        content = _png(picture, text)
    else:
        buffer = io.BytesIO()
        picture.save(buffer, image_format.upper(), quality=quality, **embedded(text, image_format))
        content = buffer.getvalue()
    return RenderedImage(
        content=content,
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


def scaled_latents(config: Mapping[str, Any], latents: torch.Tensor) -> torch.Tensor:
    """Return the VAE's latents on the scale with which the UNet was trained: the reverse of what decoding undoes."""
    scaling_factor: float = config["scaling_factor"]
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return scaling_factor * latents
    mean, deviation = (_by_channel(config[name], latents) for name in ("latents_mean", "latents_std"))
    return (latents - mean) * scaling_factor / deviation


def _by_channel(values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype).view(1, -1, 1, 1)


def _png(picture: Image.Image, text: Mapping[str, str]) -> bytes:
    """Return a PNG of an RGB picture: as Pillow's, pixel by pixel, in about a seventh of its time."""
    rows = np.asarray(picture).reshape(picture.height, picture.width * 3)
    filtered = np.empty((picture.height, picture.width * 3 + 1), np.uint8)
    filtered[:, 0] = PNG_FILTER_UP
    filtered[0, 1:] = rows[0]  # the row above the first one counts as zeros
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    pixels = isal_zlib.compress(filtered, PNG_COMPRESS_LEVEL)
    return png_file(picture.width, picture.height, RGB, pixels, text=png_text(text))
