"""A tiny random model of SDXL's real architecture, made on this machine in seconds.

It paints nothing anybody would want to see, but every tensor takes the road it takes in the large model,
so that tests, the demo and a first start need neither a download nor a GPU.
"""

from inference.tiny.folder import TinyModel, ensure_tiny_model

__all__ = ["TinyModel", "ensure_tiny_model"]
