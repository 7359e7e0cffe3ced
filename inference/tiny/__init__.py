"""Two tiny models with SDXL's real architecture, so that trying and testing Darkroom needs neither a download nor a
GPU.

`trained_model` is darkroom-tiny, which paints figures in the requested pose and colours. The demo uses it, and a worker
serves it if it is given no other model. `ensure_tiny_model` makes a smaller one with random weights in seconds. Its
pictures show nothing, but every tensor takes the same path as in the large model, so tests use it for its speed.
"""

from darkroom.inference.tiny.folder import TinyModel, ensure_tiny_model, trained_model

__all__ = ["TinyModel", "ensure_tiny_model", "trained_model"]
