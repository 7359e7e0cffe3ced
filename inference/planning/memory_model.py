"""Estimates the memory of a step, a decode and the weights before anything is loaded.

All of it grows with the picture and the width of the networks, so a few coefficients are enough. Their sources:

- *Computed.* The live bytes of a forward on torch's meta device, at the full size of SDXL base 1.0 with an OpenPose
  ControlNet (`tests/inference/test_full_size.py` computes them again): with attention of linear memory a slot takes
  5,054 numbers a latent pixel without ControlNet and 6,894 with it, the same at every size and batch; decoding takes
  768 numbers a pixel of the picture; encoding a pose 32 numbers a pixel. Weights are counted parameter by parameter.
- *Published.* Figures of real cards, which include allocators and the libraries' workspaces: ComfyUI assumes 8,389
  numbers per latent pixel and slot for SDXL without ControlNet (1.66 times the figure computed here), and 2,178 per
  pixel for decoding; on an RTX 3060 the step from 512 x 512 to 1024 x 1024 added 1,089 per pixel to a decode in fp16.
- *Assumed.* The margins on top of what is computed, 1.7 for a step or a pose and 2.0 for a decode, are chosen from
  those figures. The reserve is for the driver's context, the libraries' handles and fragmentation. None of these was
  measured with this code on a GPU; a step that does not fit all the same is made smaller by the worker.

Pure: no torch, no device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DTYPE_BYTES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}

SLOT_NUMBERS: Final = 15.8
"""Live numbers of a UNet slot at its peak, per latent pixel and channel of the UNet's first level (320 in SDXL)."""
CONTROL_NUMBERS: Final = 5.75
"""Additional live numbers for the ControlNet's residuals."""
KEPT_NUMBERS: Final = 5.0
"""Numbers that an economy row keeps between its steps, in the same unit and for one slot: the input of the UNet's last
block (2), and three residuals of the ControlNet (1 each)."""
DECODE_NUMBERS: Final = 6.0
"""Live numbers of the decoder at its peak, per pixel and channel of the VAE's first level (128 in SDXL)."""
POSE_NUMBERS: Final = 32.0
"""Live numbers of the pose encoder, per pixel."""
PREPARE_BYTES: Final = 32 * 1024 * 1024
"""Activations of the text encoders: 8 MB computed for each chunk of 77 tokens, of which a text has up to four."""
SCORE_COPIES: Final = 3
"""Copies of the attention scores that live at once if scores are materialised: empty, product, softmax."""
STEP_MARGIN: Final = 1.7
DECODE_MARGIN: Final = 2.0
RESERVE_BYTES: Final = 768 * 1024 * 1024
"""The driver's context and the libraries' handles of a process on a GPU."""
USABLE_SHARE: Final = 0.96
"""Share of the memory that a plan may use; the rest is lost to fragmentation."""

TILED_ABOVE_PIXELS: Final = 1024 * 1024
"""Larger pictures are decoded in tiles, on every device alike, because tiles change the picture at their seams."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The size of a model: its parameters by part, and the widths that its activations grow with."""

    unet: int
    controlnet: int
    """Of all ControlNets together; 0 if there is none. They run one after the other and their residuals are added up,
    so that a step's activations are those of one."""
    text_encoders: int
    vae: int
    unet_channels: int = 320
    """Channels of the UNet's first level."""
    vae_channels: int = 128
    """Channels of the VAE's first level."""
    latent_factor: int = 8
    tile_pixels: int = TILED_ABOVE_PIXELS
    """Pixels of one tile, if a picture is decoded in tiles: the VAE's own `sample_size`, squared."""
    vae_overflows: bool = True
    """True if the VAE overflows in fp16: its configuration's `force_upcast`."""


def step_bytes(model: ModelSize, dtype: str, latent_pixels: int, *, with_control: bool) -> int:
    """Return the bytes of one guided row (two slots) in a step, margin included, with attention of linear memory.

    It includes what an economy row keeps between its steps, because any row may be one: 52 MB at 1024 x 1024 in fp16.
    What every row keeps, its latents and at most three like them for samplers that look back, is 64 bytes a latent
    pixel: less than 0.3% of a row in fp16, and within the margin.
    """
    numbers = SLOT_NUMBERS + (CONTROL_NUMBERS if with_control and model.controlnet else 0.0)
    step = 2 * numbers * model.unet_channels * latent_pixels * DTYPE_BYTES[dtype] * STEP_MARGIN
    return round(step) + kept_bytes(model, dtype, latent_pixels)


def kept_bytes(model: ModelSize, dtype: str, latent_pixels: int) -> int:
    """Return the bytes that an economy row keeps between its steps."""
    return round(KEPT_NUMBERS * model.unet_channels * latent_pixels * DTYPE_BYTES[dtype])


def slice_bytes(dtype: str, latent_pixels: int) -> int:
    """Return the bytes that sliced attention adds to a step of any batch size: the scores of one head at the second
    level.

    SDXL's first level has no attention; the second has a quarter of the latent's pixels as tokens.
    """
    tokens = latent_pixels // 4
    return SCORE_COPIES * tokens * tokens * DTYPE_BYTES[dtype]


def decode_bytes(model: ModelSize, vae_dtype: str, pixels: int) -> int:
    """Return the bytes of decoding one picture, margin included, in tiles if it is large, plus three fp32 copies of
    it."""
    decoded = pixels if pixels <= TILED_ABOVE_PIXELS else model.tile_pixels
    numbers = DECODE_NUMBERS * model.vae_channels * decoded * DECODE_MARGIN
    return round(numbers * DTYPE_BYTES[vae_dtype]) + 3 * 3 * 4 * pixels


def prepare_bytes(model: ModelSize, dtype: str, pixels: int) -> int:
    """Return the bytes of preparing one job: its texts, and its pose if there is a ControlNet."""
    pose = POSE_NUMBERS * pixels * DTYPE_BYTES[dtype] * STEP_MARGIN if model.controlnet else 0
    return PREPARE_BYTES + round(pose)
