"""Reads networks out of single files: checkpoints in the layout of SDXL's first release, VAEs and ControlNets.

diffusers' own functions convert the names. Its `from_single_file` is not used: it tells the two text encoders apart by
their widths alone, and fails on a missing tensor without naming it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import safetensors
import torch
from accelerate import init_empty_weights
from diffusers.loaders import single_file_utils
from transformers import CLIPTextConfig

from darkroom.inference.sdxl.loading.headers import Header, read_headers
from darkroom.inference.sdxl.loading.parameterisation import MARKS
from darkroom.inference.sdxl.loading.revision import Weights
from darkroom.inference.types import ModelError

Tensors = dict[str, torch.Tensor]

# The module has no types.
_CONVERT: Final[Any] = single_file_utils
_OPEN_CLIP: Final = "conditioner.embedders.1.model."
_PREFIXES: Final = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": _OPEN_CLIP,
}
_TEXTS: Final = ("text_encoder", "text_encoder_2")
IGNORED_IN_TEXT: Final = ("position_ids", "logit_scale", "text_projection", "text_projection.weight")
"""Endings of tensors that only one of the two kinds of text encoder uses, although files store them for both."""
_OTHERS: Final = {
    "cond_stage_model.": "it is a checkpoint of Stable Diffusion 1 or 2",
    "conditioner.embedders.0.model.": "it is a checkpoint of SDXL's refiner",
    "text_encoders.": "it is a checkpoint of another model family",
    "double_blocks.": "it is a checkpoint of another model family",
    "model.diffusion_model.double_blocks.": "it is a checkpoint of another model family",
    "model.diffusion_model.joint_blocks.": "it is a checkpoint of another model family",
    "down_blocks.": "it is one network in diffusers' layout",
    "input_blocks.": "it is a UNet alone whose tensors do not begin with model.diffusion_model.",
    "lora_unet_": "it is a LoRA, which belongs into DARKROOM_MODEL__ADAPTERS_PATH",
}
"""Prefixes of tensors in files that are often mistaken for an SDXL checkpoint, and what such a file is."""
_NO_WEIGHTS: Final = (
    "model_ema.",
    "denoiser.",
    "betas",
    "alphas_cumprod",
    "sqrt_",
    "log_one_minus_alphas_cumprod",
    "posterior_",
    "logvar",
    "lvlb_weights",
    "global_step",
)
"""Prefixes of tensors that trainers leave in a file and no sampler reads: averaged copies, schedules, counters."""
_NO_WEIGHTS_OF_VAE: Final = ("loss.", "model_ema.")


def parts_of(file: Path, header: Header) -> frozenset[str]:
    """Return the networks, of the four, that a checkpoint holds; the UNet is always among them.

    Raises `ModelError` for a checkpoint of another family, and for tensors that belong to no part.
    """
    found = {part: [name for name in header.shapes if name.startswith(prefix)] for part, prefix in _PREFIXES.items()}
    missing = [part for part, names in found.items() if not names]
    if missing:
        marks = [kind for mark, kind in _OTHERS.items() if any(name.startswith(mark) for name in header.shapes)]
        if marks or "unet" in missing:
            what = marks[0] if marks else f"it lacks {', '.join(missing)}"
            raise ModelError(
                f"The file {file} is no SDXL checkpoint, {what}: name an SDXL base model's file or folder."
            )
    unknown = sorted(name for name in header.shapes if not name.startswith((*_PREFIXES.values(), *_NO_WEIGHTS, *MARKS)))
    if unknown:
        raise ModelError(
            f"The file {file} has tensors that belong to no part of SDXL ({len(unknown)} in all, the first is "
            f"{unknown[0]}), and what they would change is not known: save the checkpoint again without them."
        )
    return frozenset(found) - frozenset(missing)


def prefix_of(part: str) -> str:
    """Return how the tensors of `part` begin in a checkpoint; nothing for a part that has a file of its own."""
    return _PREFIXES.get(part, "")


def load_single(kind: Any, part: str, weights: Weights, dtype: torch.dtype) -> Any:
    """Load the network of `part` on the CPU. Raises `ModelError` if the file's tensors are not the network's."""
    file = weights.single_file
    assert file is not None
    with init_empty_weights():
        network = _built(kind, part, weights.folder)
    wanted = network.state_dict()
    tensors = read = _read(file, prefix_of(part))
    if not wanted.keys() <= tensors.keys():
        tensors = _converted(part, tensors, network)
    dropped = _dropped(part, read, tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    _check(weights, kind.__name__, shapes, tensors, dropped)
    network.load_state_dict({name: tensors[name].to(dtype) for name in wanted}, assign=True)
    return network


def _built(kind: Any, part: str, folder: Path) -> Any:
    """Build the network without memory for its tensors."""
    if part in _TEXTS:
        return kind(CLIPTextConfig.from_pretrained(folder, local_files_only=True))
    return kind.from_config(kind.load_config(folder, local_files_only=True))


def _converted(part: str, tensors: Tensors, network: Any) -> Tensors:
    """Return the tensors under the network's own names."""
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
        # transformers removed this level from one of the two encoders.
        named = {name.removeprefix("text_model."): tensor for name, tensor in named.items()}
    return named


def _dropped(part: str, read: Tensors, named: Tensors) -> list[str]:
    """Return the tensors of the file that the conversion ignored because it does not know their names.

    A converted tensor shares the memory of its source. Text encoders are exempt: their converter makes copies, and
    passes on unknown tensors.
    """
    if part in _TEXTS:
        return []
    places = {tensor.data_ptr() for tensor in named.values() if tensor is not None}
    ignored = (*MARKS, *(_NO_WEIGHTS_OF_VAE if part == "vae" else ()))
    prefix = prefix_of(part)
    return sorted(
        name
        for name, tensor in read.items()
        if tensor.data_ptr() not in places and not name.removeprefix(prefix).startswith(ignored)
    )


def _check(
    weights: Weights,
    kind: str,
    wanted: Mapping[str, tuple[int, ...]],
    tensors: Tensors,
    dropped: Sequence[str],
) -> None:
    missing = [name for name in wanted if tensors.get(name) is None]
    misshapen = [name for name in wanted if name not in missing and tuple(tensors[name].shape) != wanted[name]]
    ignored = (*IGNORED_IN_TEXT, *MARKS) if "Text" in kind else MARKS
    unknown = [*dropped, *(name for name in tensors if name not in wanted and not name.endswith(ignored))]
    for names, what in ((missing, "missing"), (misshapen, "misshapen"), (unknown, "too many")):
        if names:
            raise ModelError(
                f"The weights in {weights.place} are not those of {weights.folder / 'config.json'}: "
                f"{len(names)} tensors of {kind} are "
                f"{what}, the first is {names[0]}; copy the file again, or name the configuration that belongs to it."
            )


def _read(file: Path, prefix: str) -> Tensors:
    """Return the tensors under a prefix, or all tensors of a file that has none under it."""
    names = read_headers([file]).under(prefix).shapes
    with safetensors.safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in names}
