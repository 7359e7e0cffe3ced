"""Finds the tiny models on disk, and builds the random one safely when several processes ask for it at once.

The folder's name carries a digest of everything that the weights depend on, so that a newer Darkroom never uses an
older one's model. The model is built in a temporary folder beside the target and then renamed, so a process that sees
the target sees a whole model. torch is imported only if there is something to build.
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
    """Return the model in the package's own folder. Raises `ModelError` if the package came without it."""
    if not (TRAINED / "model" / "model_index.json").is_file():
        raise ModelError(f"{TRAINED} holds no model: install Darkroom again, or train one with darkroom train-tiny.")
    return TinyModel(name="darkroom-tiny", path=TRAINED / "model", controlnet_path=TRAINED / "controlnet")


def ensure_tiny_model(root: Path | None = None) -> TinyModel:
    """Find the tiny model under `root`, or build it there (a few seconds, about 15 MB).

    `root` defaults to the per-user cache folder. Several threads and processes may build at the same time: one of them
    wins, and the others use its folder. Raises `ModelError` if the folder cannot be written.
    """
    parent = user_cache_folder() if root is None else root
    target = parent / f"tiny-{spec_digest()}"
    # Weights are drawn from torch's global random state, so two threads that drew at once would disturb each other.
    with _BUILDING:
        if not target.is_dir():
            build(target)
    return TinyModel(name="tiny", path=target / "model", controlnet_path=target / "controlnet")


def spec_digest() -> str:
    """Return 12 hexadecimal digits over the architecture, the seed and the libraries that draw and write the
    weights."""
    libraries = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    text = json.dumps({"spec": SPEC, "libraries": libraries}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def build(target: Path) -> None:
    """Build the tiny model and move it to `target`, unless another process has put one there in the meantime.

    Raises `ModelError` if the folder cannot be written.
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
                # Renaming onto a folder that is not empty fails: another process was faster, and its model is as good.
                if not target.is_dir():
                    raise
    except OSError as error:
        raise ModelError(
            f"The tiny model could not be written to {target} ({error}): "
            "free some space there, or name another cache folder in XDG_CACHE_HOME."
        ) from error
