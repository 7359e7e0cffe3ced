"""The real device: SDXL with an OpenPose ControlNet, on diffusers' components and a denoising loop of our own."""

import os

# Read by huggingface_hub when it is first imported, which happens below: a worker loads what it was given and never
# asks the network for a model, a tokenizer or a newer version of one.
os.environ["HF_HUB_OFFLINE"] = "1"

from darkroom.inference.sdxl.denoise.xformers_import import xformers_ops

# Before diffusers is imported, which would fail with a broken xformers.
xformers_ops()

from darkroom.inference.sdxl.device import SdxlDevice  # noqa: E402 - only now
from darkroom.inference.sdxl.loading.sources import ModelFiles  # noqa: E402 - as above

__all__ = ["ModelFiles", "SdxlDevice"]
