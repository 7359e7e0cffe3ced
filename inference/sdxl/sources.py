"""Where a model's parts lie: which files and configurations of this machine each network is loaded from.

A model is a diffusers folder, or a single-file checkpoint in the layout of SDXL's first release, in which one file
holds UNet, VAE and both text encoders. Such a file says nothing of its architecture and has no tokenizers: those come
from a diffusers folder whose weights, if it has any, are not read. Nothing here is fetched, and nothing is guessed from
a name on a hub, as diffusers would without a configuration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from inference.contract import ModelError
from inference.sdxl.revision import Weights, find_weights
from inference.sdxl.single_file import check_checkpoint

_PARTS: Final = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_NETWORKS: Final = ("unet", "vae", "text_encoder", "text_encoder_2")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The paths that a model is made of."""

    path: Path
    """A diffusers folder of an SDXL pipeline, or a `.safetensors` checkpoint in the original layout."""
    controlnet_path: Path | None = None
    """A diffusers folder of a ControlNet, or a `.safetensors` file of one."""
    vae_path: Path | None = None
    """The same of a VAE that takes the place of the model's own."""
    config_path: Path | None = None
    """For a checkpoint: a diffusers folder of SDXL's configurations and tokenizers; its own folder when None."""
    adapters_path: Path | None = None
    """A folder of LoRA files."""
    pose_detector_path: Path | None = None
    """Weights of the OpenPose body detector, a file or its folder; of use with a ControlNet."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What there is to load."""

    base: Path
    """The diffusers folder of the configurations, tokenizers and noise schedule."""
    index: Mapping[str, Any]
    """Its `model_index.json`."""
    parts: Mapping[str, Weights]
    """By network: unet, vae, text_encoder, text_encoder_2 and, where there is one, controlnet."""


def find_sources(files: ModelFiles, dtype: torch.dtype) -> Sources:
    """Raises `ModelError` where something is missing, torn at first sight, or of another kind."""
    is_checkpoint = _is_file(files.path)
    base = files.path if not is_checkpoint else files.config_path or files.path.parent
    if is_checkpoint:
        check_checkpoint(files.path)
        if not (base / "model_index.json").is_file():
            raise ModelError(
                f"The checkpoint {files.path} needs SDXL's configurations and tokenizers, and {base} has none: name a "
                "diffusers folder of SDXL in DARKROOM_MODEL__CONFIG_PATH; its weights are not read."
            )
    index = _read_index(base)
    if is_checkpoint:
        parts = {part: Weights(base / part, None, (), single_file=files.path) for part in _NETWORKS}
        # Its bytes count once for the revision.
        parts["unet"] = Weights(base / "unet", None, (files.path,), single_file=files.path)
    else:
        parts = {part: find_weights(base / part, dtype) for part in _NETWORKS if part != "vae" or not files.vae_path}
    if files.vae_path is not None:
        parts["vae"] = _find_part(files.vae_path, base / "vae", dtype)
    if files.controlnet_path is not None:
        parts["controlnet"] = _find_part(files.controlnet_path, base / "controlnet", dtype)
    return Sources(base, index, parts)


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a configuration file. Raises `ModelError`."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} cannot be read ({error}): name a diffusers folder of an SDXL model, or copy it again."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} does not hold a JSON object: copy the model again.")
    return content


def _find_part(path: Path, fallback: Path, dtype: torch.dtype) -> Weights:
    """One network of its own: a folder, or a file with its configuration beside it or in the model's folder."""
    if not _is_file(path):
        return find_weights(path, dtype)
    for folder in (path.parent, fallback):
        if (folder / "config.json").is_file():
            return Weights(folder, None, (path,), single_file=path)
    raise ModelError(
        f"The file {path} says nothing of its architecture, and there is no config.json beside it or in {fallback}: "
        "put the one of its diffusers folder beside it."
    )


def _is_file(path: Path) -> bool:
    if not path.exists():
        raise ModelError(f"{path} is not there: correct the setting that names it, or copy the model again.")
    if path.is_file() and path.suffix != ".safetensors":
        raise ModelError(f"{path} is no .safetensors file, and others can run code when they are read: convert it.")
    return path.is_file()


def _read_index(path: Path) -> dict[str, Any]:
    index = read_json(path / "model_index.json")
    missing = [part for part in _PARTS if not (path / part).is_dir()]
    if missing:
        raise ModelError(
            f"{path} is not an SDXL pipeline folder, it lacks {', '.join(missing)}: "
            "name an SDXL base model's folder, or copy it again."
        )
    return index
