"""Two tiny models of SDXL's real architecture, so that nothing needs a download or a GPU to be seen or tested.

`trained_model` is darkroom-tiny, which paints figures in the pose and the colours that it is asked for: the demo's, and
what a worker serves that is given no other model. `ensure_tiny_model` makes a smaller one with random weights
in seconds: it paints nothing anybody would want to see, but every tensor takes the road it takes in the large model,
so tests of the machinery use it for its speed.
"""

from darkroom.inference.tiny.folder import TinyModel, ensure_tiny_model, trained_model

__all__ = ["TinyModel", "ensure_tiny_model", "trained_model"]
