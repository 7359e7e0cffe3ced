"""The training pictures, on disk in shards of one size each.

A shard is a folder with `pictures.npy` and `skeletons.npy` ((pairs, height, width, 3) uint8), `texts.json` and, once
there is a VAE, `latents.npy` ((pairs, channels, height / 8, width / 8) float16). A shard's number is its seed, so that
a lost shard can be drawn again.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from darkroom.tools.tiny.training.blueprint import NATIVE_PX
from darkroom.tools.tiny.training.figures import picture, random_scene, skeleton

Array = np.ndarray[Any, Any]

_OTHER_SIZES: Final = ((96, 128), (128, 96), (160, 128), (128, 160))
_EVERY: Final = 10
"""One shard in this many has another size than the native one."""


@dataclass(frozen=True, slots=True)
class Shards:
    """The drawn pairs under `folder`: `count` shards of `pairs` pairs each."""

    folder: Path
    count: int
    pairs: int

    def path(self, number: int) -> Path:
        """Return a shard's folder."""
        return self.folder / f"{number:04}"

    def missing(self) -> list[int]:
        """Return the shards that are still to be drawn."""
        return [number for number in range(self.count) if not self.path(number).is_dir()]

    def draw(self, number: int) -> None:
        """Draw one shard. It appears complete or not at all."""
        width, height = shard_size(number)
        dice = random.Random(f"darkroom-tiny pairs {number}")  # noqa: S311 - to be repeated
        scenes = [random_scene(dice, width=width, height=height) for _ in range(self.pairs)]
        half = self.folder / f".{number:04}"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        np.save(half / "pictures.npy", np.stack([np.asarray(picture(scene)) for scene in scenes]))
        np.save(half / "skeletons.npy", np.stack([np.asarray(skeleton(scene)) for scene in scenes]))
        (half / "texts.json").write_text(json.dumps([scene.text for scene in scenes]))
        half.rename(self.path(number))

    def not_encoded(self) -> list[int]:
        """Return the shards without latents."""
        return [number for number in range(self.count) if not (self.path(number) / "latents.npy").is_file()]

    def encode(self, number: int, encoder: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Add the latents that `encoder` makes of (batch, 3, height, width) in [-1, 1]."""
        pictures = self.pictures(number)
        latents = [encoder(to_levels(pictures[start : start + 25])) for start in range(0, self.pairs, 25)]
        half = self.path(number) / ".latents.npy"
        with half.open("wb") as file:
            np.save(file, torch.cat(latents).numpy().astype(np.float16))
        half.rename(self.path(number) / "latents.npy")

    def forget_latents(self) -> None:
        """Remove all latents, because the VAE has changed."""
        for number in range(self.count):
            (self.path(number) / "latents.npy").unlink(missing_ok=True)

    def pictures(self, number: int) -> Array:
        """Return a shard's pictures, memory-mapped."""
        array: Array = np.load(self.path(number) / "pictures.npy", mmap_mode="r")
        return array


class Batch(NamedTuple):
    """Pairs of one size."""

    latents: torch.Tensor
    skeletons: torch.Tensor
    """(batch, 3, height, width) in [0, 1]."""
    texts: list[str]
    width: int
    height: int


class Pairs:
    """Random batches of latents, skeletons and captions."""

    def __init__(self, shards: Shards) -> None:
        self._sizes = [shard_size(number) for number in range(shards.count)]
        paths = [shards.path(number) for number in range(shards.count)]
        self._latents: list[Array] = [np.load(path / "latents.npy") for path in paths]
        self._skeletons: list[Array] = [np.load(path / "skeletons.npy", mmap_mode="r") for path in paths]
        self._texts: list[list[str]] = [json.loads((path / "texts.json").read_text()) for path in paths]

    def batch(self, size: int, dice: np.random.Generator) -> Batch:
        """Draw `size` pairs from one random shard."""
        shard = int(dice.integers(len(self._sizes)))
        rows = np.sort(dice.choice(len(self._texts[shard]), size, replace=False))
        skeletons = torch.from_numpy(self._skeletons[shard][rows]).permute(0, 3, 1, 2).float() / 255.0
        latents = torch.from_numpy(self._latents[shard][rows]).float()
        return Batch(latents, skeletons, [self._texts[shard][row] for row in rows], *self._sizes[shard])


def shard_size(number: int) -> tuple[int, int]:
    """Return the width and height of a shard's pictures."""
    if number % _EVERY != _EVERY - 1:
        return NATIVE_PX, NATIVE_PX
    return _OTHER_SIZES[number // _EVERY % len(_OTHER_SIZES)]


def to_levels(pictures: Array) -> torch.Tensor:
    """Turn uint8 (batch, height, width, 3) into (batch, 3, height, width) in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
