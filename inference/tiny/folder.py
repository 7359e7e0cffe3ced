"""Where the tiny model lies, and how several processes can ask for it at once.

The folder's name carries a digest of everything the weights depend on, so that a newer Darkroom never finds
an older one's model. It is built under a name of its own beside the target and then renamed: whoever finds the
target finds a whole model. torch is imported only when there is something to build.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from darkroom.inference.tiny.spec import SPEC
from darkroom.inference.types import ModelError
from darkroom.inference.user_cache import user_cache_folder

TRAINED: Final = Path(__file__).parent / "trained"
"""The trained model, which is part of the package (`darkroom train-tiny` made it)."""
_BUILDING = threading.Lock()


@dataclass(frozen=True, slots=True)
class TinyModel:
    """The tiny model on disk, as two diffusers folders."""

    name: str
    path: Path
    """A `StableDiffusionXLPipeline` folder."""
    controlnet_path: Path
    """A `ControlNetModel` folder."""


def trained_model() -> TinyModel:
    """The model in the package's own folder. Raises `ModelError` where the package came without it."""
    if not (TRAINED / "model" / "model_index.json").is_file():
        raise ModelError(f"{TRAINED} holds no model: install Darkroom again, or train one with darkroom train-tiny.")
    return TinyModel(name="darkroom-tiny", path=TRAINED / "model", controlnet_path=TRAINED / "controlnet")


def ensure_tiny_model(root: Path | None = None) -> TinyModel:
    """Find the tiny model under `root`, or build it there (a few seconds, about 15 MB).

    `root` is the per-user cache folder when not given. Threads and processes may do the same at the same time: one of
    the builders wins, the others use its folder. Raises `ModelError` where the folder cannot be written.
    """
    parent = user_cache_folder() if root is None else root
    target = parent / f"tiny-{spec_digest()}"
    # Weights are drawn from torch's one random state, so two threads that drew at once would both draw nonsense.
    with _BUILDING:
        if not target.is_dir():
            build(target)
    return TinyModel(name="tiny", path=target / "model", controlnet_path=target / "controlnet")


def spec_digest() -> str:
    """12 hexadecimal digits over the architecture, the seed and the libraries that draw and write the weights."""
    libraries = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    text = json.dumps({"spec": SPEC, "libraries": libraries}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def build(target: Path) -> None:
    """Build the tiny model and move it to `target`, unless another process has put one there in the meantime.

    Raises `ModelError` where that cannot be written.
    """
    from darkroom.inference.tiny.weights import write_model

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tiny-", dir=target.parent) as workplace:
            built = Path(workplace) / "built"
            write_model(built)
            try:
                built.rename(target)
            except OSError:
                # A folder cannot be renamed onto one that is not empty: somebody else was faster, theirs is as good.
                if not target.is_dir():
                    raise
    except OSError as error:
        raise ModelError(
            f"The tiny model could not be written to {target} ({error}): "
            "free some space there, or name another cache folder in XDG_CACHE_HOME."
        ) from error
