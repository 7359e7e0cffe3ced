"""Reads networks out of single files: checkpoints in the layout of SDXL's first release, VAEs and ControlNets.

The names are converted by diffusers' own functions. Each network is given its own part of the file: diffusers tells the
two text encoders apart by their widths, and takes whatever a file lacks for whatever the memory holds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from inference.contract import ModelError
from inference.sdxl.revision import Weights

# It has no types.
_clip_from_ldm: Final[Any] = create_diffusers_clip_model_from_ldm
_PREFIXES: Final = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",
}
_OTHERS: Final = {
    "cond_stage_model.": "it is a checkpoint of Stable Diffusion 1 or 2",
    "conditioner.embedders.0.model.": "it is a checkpoint of SDXL's refiner",
    "text_encoders.": "it is a checkpoint of another model family",
    "double_blocks.": "it is a checkpoint of another model family",
    "down_blocks.": "it is one network in diffusers' layout",
    "lora_unet_": "it is a LoRA, which belongs into DARKROOM_MODEL__ADAPTERS_PATH",
}
"""What a file is that has such names, of those that are often taken for the right one."""


def check_checkpoint(file: Path) -> None:
    """Raises `ModelError` unless the file is whole and has the four parts of an SDXL checkpoint."""
    names = _names(file)
    missing = [part for part, prefix in _PREFIXES.items() if not any(name.startswith(prefix) for name in names)]
    if missing:
        kind = next((kind for mark, kind in _OTHERS.items() if any(name.startswith(mark) for name in names)), None)
        what = kind or f"it lacks {', '.join(missing)}"
        raise ModelError(f"The file {file} is no SDXL checkpoint, {what}: name an SDXL base model's file or folder.")


def load_single(kind: Any, part: str, weights: Weights, dtype: torch.dtype) -> Any:
    """One network, on the CPU. Raises `ModelError` where tensors are missing, and whatever diffusers raises."""
    file = weights.single_file
    assert file is not None
    tensors = _read(file, _PREFIXES.get(part, ""))
    if kind in (CLIPTextModel, CLIPTextModelWithProjection):
        network = _clip_from_ldm(kind, tensors, config=str(weights.folder), torch_dtype=dtype, local_files_only=True)
    else:
        network = kind.from_single_file(tensors, config=str(weights.folder), local_files_only=True, dtype=dtype)
    # What the file does not have stays a tensor without memory.
    missing = [name for name, tensor in network.named_parameters() if tensor.is_meta]
    if missing:
        raise ModelError(
            f"The weights in {file} are not whole: {len(missing)} tensors of {kind.__name__} are missing, the first is "
            f"{missing[0]}; copy the file again, and check that it goes with {weights.folder / 'config.json'}."
        )
    return network


def _names(file: Path) -> list[str]:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"The file {file} is torn or no safetensors file ({error}): copy it again.") from error


def _read(file: Path, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under a prefix, or all of a file that has none under it."""
    names = _names(file)
    wanted = [name for name in names if name.startswith(prefix)] or names
    with safetensors.safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in wanted}
