"""Reads networks out of single files: checkpoints in the layout of SDXL's first release, VAEs and ControlNets.

The names are converted by diffusers' own functions. Its `from_single_file` around them is not used: it tells the two
text encoders apart by their widths alone, and fails on a missing tensor without naming it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from accelerate import init_empty_weights
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig

from inference.contract import ModelError
from inference.sdxl.revision import Weights

Tensors = dict[str, torch.Tensor]

# It has no types.
_CONVERT: Final[Any] = single_file_utils
_OPEN_CLIP: Final = "conditioner.embedders.1.model."
_PREFIXES: Final = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": _OPEN_CLIP,
}
_TEXTS: Final = ("text_encoder", "text_encoder_2")
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
    """The network of `part`, on the CPU. Raises `ModelError` where the file's tensors are not the network's."""
    file = weights.single_file
    assert file is not None
    with init_empty_weights():
        network = _built(kind, part, weights.folder)
    wanted = network.state_dict()
    tensors = _read(file, _PREFIXES.get(part, ""))
    if not wanted.keys() <= tensors.keys():
        tensors = _converted(part, tensors, network)
    _check(file, kind.__name__, weights.folder, {name: tuple(tensor.shape) for name, tensor in wanted.items()}, tensors)
    network.load_state_dict({name: tensors[name].to(dtype) for name in wanted}, assign=True)
    return network


def _built(kind: Any, part: str, folder: Path) -> Any:
    """Without memory for its tensors."""
    if part in _TEXTS:
        return kind(CLIPTextConfig.from_pretrained(folder, local_files_only=True))
    return kind.from_config(kind.load_config(folder, local_files_only=True))


def _converted(part: str, tensors: Tensors, network: Any) -> Tensors:
    """Under the names that the network has."""
    named: Tensors
    if part == "text_encoder":
        named = _CONVERT.convert_ldm_clip_checkpoint(tensors)
    elif part == "text_encoder_2":
        named = _CONVERT.convert_open_clip_checkpoint(network, tensors, prefix=_OPEN_CLIP)
    elif part == "vae":
        named = _CONVERT.convert_ldm_vae_checkpoint(tensors, network.config)
    elif part == "controlnet":
        named = _CONVERT.convert_controlnet_checkpoint(tensors, network.config)
    else:
        named = _CONVERT.convert_ldm_unet_checkpoint(tensors, network.config)
    if part in _TEXTS and not hasattr(network, "text_model"):
        # transformers took this level out of one of the two encoders.
        named = {name.removeprefix("text_model."): tensor for name, tensor in named.items()}
    return named


def _check(file: Path, kind: str, folder: Path, wanted: Mapping[str, tuple[int, ...]], tensors: Tensors) -> None:
    missing = [name for name in wanted if tensors.get(name) is None]
    misshapen = [name for name in wanted if name not in missing and tuple(tensors[name].shape) != wanted[name]]
    # Text encoders come with what the other kind of encoder has: a projection, the positions' numbers.
    unknown = [] if "Text" in kind else [name for name in tensors if name not in wanted]
    for names, what in ((missing, "missing"), (misshapen, "misshapen"), (unknown, "too many")):
        if names:
            raise ModelError(
                f"The weights in {file} are not those of {folder / 'config.json'}: {len(names)} tensors of {kind} are "
                f"{what}, the first is {names[0]}; copy the file again, or name the configuration that belongs to it."
            )


def _names(file: Path) -> list[str]:
    try:
        with safetensors.safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"The file {file} is torn or no safetensors file ({error}): copy it again.") from error


def _read(file: Path, prefix: str) -> Tensors:
    """The tensors under a prefix, or all of a file that has none under it."""
    names = _names(file)
    wanted = [name for name in names if name.startswith(prefix)] or names
    with safetensors.safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in wanted}
