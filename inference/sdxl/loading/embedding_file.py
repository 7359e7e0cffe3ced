"""Reads textual inversions: vectors that stand for words at the input of the two text encoders (Gal et al. 2022).

SDXL's files have a tensor for each encoder, `clip_l` and `clip_g`, with a row for each vector, as kohya's scripts,
OneTrainer and Stable Diffusion web UI write them. Files of other models have one tensor and are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import safetensors.torch
import torch

from darkroom.inference.sdxl.loading.lora_file import LoraUnusable
from darkroom.inference.sdxl.loading.lora_kinds import TEXT_WIDTHS
from darkroom.inference.sdxl.loading.lora_names import Networks
from darkroom.schemas.prompts.embeddings import is_embedding_name

VECTORS_MAX: Final = 75
"""What fits between the begin and the end token of one chunk, within which an embedding stays."""
_KEYS: Final[Mapping[str, str]] = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
"""A file's tensors, and the networks that they belong to."""
_ONE_ENCODER: Final = ("emb_params", "string_to_param")
"""Tensors of files for models with one text encoder."""
_HEADER_LENGTH_BYTES: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A textual inversion, in the dtype of the encoders."""

    vectors: tuple[torch.Tensor, ...]
    """By encoder: (vectors, width)."""

    @property
    def count(self) -> int:
        """The number of vectors, each of which takes the place of a token."""
        return len(self.vectors[0])

    @property
    def size_bytes(self) -> int:
        """Bytes of all vectors."""
        return sum(tensor.nbytes for tensor in self.vectors)


def parse_embedding(file: Path, name: str, content: bytes, networks: Networks) -> Embedding | None:
    """Return the textual inversion in the bytes of `file`, fitted to the networks; None if it is another kind of file.

    `name` is the name that prompts would give. Raises `LoraUnusable`.
    """
    shapes = _shapes(content)
    if not shapes or not all(_is_of_embedding(key, shape) for key, shape in shapes.items()):
        return None

    def refuse(what: str) -> NoReturn:
        raise LoraUnusable(f"The adapter file {file.name} is a textual inversion {what}.")

    if shapes.keys() != _KEYS.keys():
        key = min(shapes.keys() - _KEYS.keys(), default=min(shapes))
        width = shapes[key][-1] if shapes[key] else 0
        made_for = f"for {TEXT_WIDTHS[width]} " if width in TEXT_WIDTHS and key not in _KEYS else ""
        refuse(
            f"{made_for}that has {' and '.join(sorted(shapes))} with {width} numbers a vector, and SDXL's two text "
            "encoders need clip_l and clip_g: use one that was trained for SDXL"
        )
    if not is_embedding_name(name):
        refuse(
            "with a name that no prompt can have: use letters, digits, _, - and full stops between them, and no .pt or "
            ".bin at the end"
        )
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, ValueError):
        return None  # torn, which the reader of LoRAs says
    vectors = []
    for key, network in _KEYS.items():
        encoder: Any = networks[network]
        weight = encoder.get_input_embeddings().weight
        tensor = tensors[key]
        rows = tensor[None] if tensor.dim() == 1 else tensor
        if rows.dim() != 2 or rows.shape[1] != weight.shape[1]:
            refuse(
                f"that does not fit this model: {key} is {tuple(tensor.shape)}, and the encoder's vectors have "
                f"{weight.shape[1]} numbers: use one that was trained for SDXL"
            )
        cast = rows.to(weight.dtype)
        if not bool(torch.isfinite(rows.float()).all()) or not bool(torch.isfinite(cast.float()).all()):
            refuse(f"with values in {key} that are not finite in {weight.dtype}: train or copy it again")
        vectors.append(cast.contiguous())
    counts = [len(rows) for rows in vectors]
    if counts[0] != counts[1] or not 1 <= counts[0] <= VECTORS_MAX:
        refuse(
            f"with {counts[0]} vectors in clip_l and {counts[1]} in clip_g: both must have as many, 1 to {VECTORS_MAX}"
        )
    return Embedding(tuple(vectors))


def _is_of_embedding(key: str, shape: list[int]) -> bool:
    """Return True for a tensor of a textual inversion. diffusers calls its one tensor by the word it stands for."""
    if key in _KEYS or key.startswith(_ONE_ENCODER):
        return True
    return key.startswith("<") and key.endswith(">") and len(shape) <= 2


def _shapes(content: bytes) -> dict[str, list[int]]:
    """Return the shape of each tensor by the file's header; nothing where it has none that can be read."""
    length = int.from_bytes(content[:_HEADER_LENGTH_BYTES], "little")
    try:
        header = json.loads(content[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + length])
        return {key: list(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
    except (ValueError, AttributeError, KeyError, TypeError):
        return {}
