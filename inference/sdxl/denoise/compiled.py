"""Compiled regions: the transformer blocks of UNet and ControlNet, compiled once and used where shapes are static.

Compiling only the block that repeats takes a tenth of the time that the whole network takes, and gains nearly as much
(PyTorch, "Regional compilation"). Two things must never happen. Nothing is compiled under load: after `seal` a shape
that has no compiled form runs eagerly. And no compiled block passes over hooks that were put on its layers later:
whoever has such hooks enters as not static. A compiler that does not work is the caller's to notice, and `give_up`
leaves the networks as they were.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from diffusers.models.attention import BasicTransformerBlock

Backend = str | Callable[..., Any]


class CompiledRegions:
    """The blocks of some networks that are compiled together, and when their compiled form is used."""

    def __init__(self, networks: Sequence[Any], *, shapes_max: int, backend: Backend = "inductor") -> None:
        """Mark the networks' transformer blocks. Nothing is compiled before their first call.

        `shapes_max` bounds how many forms one block may take. All blocks run the same code, for which torch counts
        the forms together, and stops compiling at its limit.
        """
        # By their type: diffusers' UNet names its repeated blocks (`_repeated_blocks`), its ControlNet names none.
        blocks = [
            block for network in networks for block in network.modules() if isinstance(block, BasicTransformerBlock)
        ]
        for block in blocks:
            block.compile(
                backend=backend,
                fullgraph=True,
                dynamic=False,
                recompile_limit=shapes_max * len(blocks),
            )
        self._blocks = blocks
        self._sealed = False

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self._blocks)

    def seal(self) -> None:
        """From now on nothing is compiled any more: what has no compiled form runs eagerly."""
        self._sealed = True

    def entered(self, *, is_static: bool) -> AbstractContextManager[None]:
        """Inside, forwards of static shape use the compiled blocks, and all others the plain ones."""
        if not is_static:
            return _stance("force_eager")
        return _stance("eager_on_recompile") if self._sealed else nullcontext()

    def give_up(self) -> None:
        """Put the plain blocks back, for good."""
        for block in self._blocks:
            block._compiled_call_impl = None
        self._blocks = []


class Padded(NamedTuple):
    """The slots that the networks are run with."""

    unet_slots: int
    control_slots: int
    is_static: bool


class StaticShapes:
    """A list of latent sizes, and of slot counts that a forward may have at those sizes (buckets)."""

    def __init__(self, latent_sizes: Iterable[tuple[int, int]] = (), buckets: Iterable[int] = ()) -> None:
        """`latent_sizes` are (height, width) in latent pixels; without any, nothing is padded.

        Raises `ValueError` for sizes without buckets or a bucket below 1.
        """
        self.latent_sizes = frozenset(latent_sizes)
        self.buckets = tuple(sorted(set(buckets)))
        if self.latent_sizes and not self.buckets:
            raise ValueError("static shapes need at least one bucket of slots")
        if any(bucket < 1 for bucket in self.buckets):
            raise ValueError(f"the buckets are {self.buckets}: slots are counted from 1")

    def bucket(self, slots: int) -> int | None:
        """The smallest bucket that holds so many slots; None above the largest."""
        place = bisect_left(self.buckets, slots)
        return self.buckets[place] if place < len(self.buckets) else None

    def pad(self, latent_height: int, latent_width: int, *, unet_slots: int, control_slots: int) -> Padded:
        """UNet and ControlNet each padded to a bucket of its own, where the size is on the list and both fit."""
        if (latent_height, latent_width) in self.latent_sizes:
            unet = self.bucket(unet_slots)
            control = self.bucket(control_slots) if control_slots else 0
            if unet is not None and control is not None:
                return Padded(unet, control, True)
        return Padded(unet_slots, control_slots, False)


def slot_buckets(rows_max: int) -> tuple[int, ...]:
    """Powers of two from 2 on, and at the end what `rows_max` guided rows take and memory has to hold.

    Few to compile, and a batch is padded by less than half.
    """
    most = 2 * rows_max
    return (*(1 << power for power in range(1, most.bit_length()) if 1 << power < most), most)


@contextmanager
def _stance(stance: str) -> Iterator[None]:
    set_stance: Any = torch.compiler.set_stance
    with set_stance(stance):
        yield
