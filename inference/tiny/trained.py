"""The tiny model that was trained (`darkroom train-tiny`), as it lies in this package."""

from __future__ import annotations

from pathlib import Path

from darkroom.inference.contract import ModelError
from darkroom.inference.tiny.folder import TinyModel

FOLDER = Path(__file__).parent / "trained"


def trained_model() -> TinyModel:
    """The model in the package's own folder. Raises `ModelError` where the package came without it."""
    if not (FOLDER / "model" / "model_index.json").is_file():
        raise ModelError(f"{FOLDER} holds no model: install Darkroom again, or train one with darkroom train-tiny.")
    return TinyModel(name="darkroom-tiny", path=FOLDER / "model", controlnet_path=FOLDER / "controlnet")
