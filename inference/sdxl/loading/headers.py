"""Reads files without their weights: configurations, the names and shapes of tensors, metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors

from darkroom.inference.types import ModelError


@dataclass(frozen=True, slots=True)
class Header:
    """The header of one safetensors file, or of all shards of one network."""

    shapes: Mapping[str, tuple[int, ...]]
    """Shapes by tensor."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Entries written by the tool that made the file, such as `modelspec.architecture`."""

    def under(self, prefix: str) -> Header:
        """Return the header of the tensors whose names begin with `prefix`, or all of it if there are none."""
        inside = {name: shape for name, shape in self.shapes.items() if name.startswith(prefix)}
        return Header(inside or self.shapes, self.metadata)


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a configuration file. Raises `ModelError`."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} cannot be read ({error}): name a diffusers folder of an SDXL model, or copy it again."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} does not hold a JSON object: copy the model again.")
    return content


def read_headers(files: Iterable[Path]) -> Header:
    """Return the headers of `files` as one. Raises `ModelError` for a file that is torn or not a safetensors file."""
    shapes: dict[str, tuple[int, ...]] = {}
    metadata: dict[str, str] = {}
    for file in files:
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                metadata |= opened.metadata() or {}
                shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        except (OSError, safetensors.SafetensorError) as error:
            raise ModelError(f"The file {file} is torn or not a safetensors file ({error}): copy it again.") from error
    return Header(shapes, metadata)
