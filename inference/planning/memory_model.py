"""How much memory a step, a decode and the weights take, before anything is loaded.

All of it grows with the picture and the width of the networks, so a few coefficients say it. Where each comes from:

- *Computed.* The live bytes of a forward on torch's meta device, at the full size of SDXL base 1.0 with an OpenPose
  ControlNet (`tests/inference/test_full_size.py` computes them again): with attention of linear memory a slot takes
  5,054 numbers a latent pixel without ControlNet and 6,894 with it, the same at every size and batch; decoding takes
  768 numbers a pixel of the picture; encoding a pose 32 numbers a pixel. Weights are counted parameter by parameter.
- *Published.* What allocators and the libraries' workspaces add on a real card: ComfyUI reckons with 8,389 numbers a
  latent pixel and slot for SDXL without ControlNet (1.66 times what is computed here), and with 2,178 a pixel for
  decoding; on an RTX 3060 the step from 512 x 512 to 1024 x 1024 added 1,089 a pixel to a decode in fp16.
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
"""A UNet slot's live numbers at its peak, per latent pixel and channel of the UNet's first level (320 in SDXL)."""
CONTROL_NUMBERS: Final = 5.75
"""What the ControlNet's residuals add to that."""
DECODE_NUMBERS: Final = 6.0
"""The decoder's live numbers at its peak, per pixel and channel of the VAE's first level (128 in SDXL)."""
POSE_NUMBERS: Final = 32.0
"""The pose encoder's, per pixel."""
PREPARE_BYTES: Final = 32 * 1024 * 1024
"""The text encoders' activations, 77 tokens a text: 8 MB computed."""
SCORE_COPIES: Final = 3
"""Attention scores that live at once where they are written out: empty, product, softmax."""
STEP_MARGIN: Final = 1.7
DECODE_MARGIN: Final = 2.0
RESERVE_BYTES: Final = 768 * 1024 * 1024
"""Context and handles of a process on a GPU."""
USABLE_SHARE: Final = 0.96
"""The rest is lost to fragmentation."""

TILED_ABOVE_PIXELS: Final = 1024 * 1024
"""Larger pictures are decoded in tiles. By size alone, the same on every device: tiles change a picture's seams."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """How large a model is: parameters by part, and what its activations grow with."""

    unet: int
    controlnet: int
    """0 where there is none."""
    text_encoders: int
    vae: int
    unet_channels: int = 320
    """Of its first level."""
    vae_channels: int = 128
    """Of its first level."""
    latent_factor: int = 8
    tile_pixels: int = TILED_ABOVE_PIXELS
    """Of one tile, where a picture is decoded in tiles: the VAE's own `sample_size`, squared."""
    vae_overflows: bool = True
    """Whether the VAE is not safe in fp16: its configuration's `force_upcast`."""


def step_bytes(model: ModelSize, dtype: str, latent_pixels: int, *, with_control: bool) -> int:
    """Of one guided row (two slots), margin included, with attention of linear memory."""
    numbers = SLOT_NUMBERS + (CONTROL_NUMBERS if with_control and model.controlnet else 0.0)
    return round(2 * numbers * model.unet_channels * latent_pixels * DTYPE_BYTES[dtype] * STEP_MARGIN)


def slice_bytes(dtype: str, latent_pixels: int) -> int:
    """What sliced attention adds to a step, whatever the batch: the scores of one head at the second level.

    SDXL's first level has no attention; the second has a quarter of the latent's pixels as tokens.
    """
    tokens = latent_pixels // 4
    return SCORE_COPIES * tokens * tokens * DTYPE_BYTES[dtype]


def decode_bytes(model: ModelSize, vae_dtype: str, pixels: int) -> int:
    """Of one picture, margin included, in tiles where its size says so; with the picture in fp32 three times beside."""
    decoded = pixels if pixels <= TILED_ABOVE_PIXELS else model.tile_pixels
    numbers = DECODE_NUMBERS * model.vae_channels * decoded * DECODE_MARGIN
    return round(numbers * DTYPE_BYTES[vae_dtype]) + 3 * 3 * 4 * pixels


def prepare_bytes(model: ModelSize, dtype: str, pixels: int) -> int:
    """Of one job: its texts, and its pose where there is a ControlNet."""
    pose = POSE_NUMBERS * pixels * DTYPE_BYTES[dtype] * STEP_MARGIN if model.controlnet else 0
    return PREPARE_BYTES + round(pose)
