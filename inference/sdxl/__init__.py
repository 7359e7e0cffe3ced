"""The real device: SDXL with ControlNets, on diffusers' components and a denoising loop of our own."""

import os

# huggingface_hub reads this when it is first imported, which happens below. A worker loads local files and never asks
# the network for a model, a tokenizer or a newer version of one.
os.environ["HF_HUB_OFFLINE"] = "1"

from darkroom.inference.sdxl.denoise.xformers_import import xformers_ops

# Must run before diffusers is imported, which would fail with a broken xformers.
xformers_ops()

from darkroom.inference.sdxl.device import SdxlDevice  # noqa: E402 - after the two lines above
from darkroom.inference.sdxl.loading.sources import ControlNetFiles, ModelFiles  # noqa: E402 - as above

__all__ = ["ControlNetFiles", "ModelFiles", "SdxlDevice"]
