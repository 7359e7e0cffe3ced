"""Compiled regions: the transformer blocks of UNet and ControlNet, compiled once and used for static shapes.

Compiling only the repeated block takes a tenth of the time of compiling the whole network, and gains nearly as much
(PyTorch, "Regional compilation"). Two rules hold. Nothing is compiled under load: after `seal` a shape without a
compiled form runs eagerly. And a compiled block never skips hooks that were put on its layers later: a caller with such
hooks enters as not static. The caller notices a compiler that does not work, and `give_up` restores the networks.

The compiled shapes are a fixed list of picture sizes and slot counts, because compiling one shape takes seconds to
minutes. All are compiled before the worker is ready; any other shape runs eagerly and unpadded.
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
    """The blocks of some networks, compiled together, with control over when their compiled form is used."""

    def __init__(self, networks: Sequence[Any], *, shapes_max: int, backend: Backend = "inductor") -> None:
        """Mark the networks' transformer blocks. Nothing is compiled before their first call.

        `shapes_max` bounds the compiled forms of one block. All blocks run the same code, so torch counts their forms
        together, and stops compiling at its limit.
        """
        # Found by type: diffusers' UNet names its repeated blocks (`_repeated_blocks`), but its ControlNet names none.
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
        """The number of blocks."""
        return len(self._blocks)

    def seal(self) -> None:
        """Stop compiling: from now on a shape without a compiled form runs eagerly."""
        self._sealed = True

    def entered(self, *, is_static: bool) -> AbstractContextManager[None]:
        """Use the compiled blocks inside the block for forwards of static shape, and the plain ones for all others."""
        if not is_static:
            return _stance("force_eager")
        return _stance("eager_on_recompile") if self._sealed else nullcontext()

    def give_up(self) -> None:
        """Restore the plain blocks permanently."""
        for block in self._blocks:
            block._compiled_call_impl = None
        self._blocks = []


class Padded(NamedTuple):
    """The slots of the networks' forwards, padding included."""

    unet_slots: int
    control_slots: int
    is_static: bool


class StaticShapes:
    """The latent sizes that are compiled, and the slot counts (buckets) that a forward may have at those sizes."""

    def __init__(self, latent_sizes: Iterable[tuple[int, int]] = (), buckets: Iterable[int] = ()) -> None:
        """Make the list. `latent_sizes` are (height, width) in latent pixels; without any, nothing is padded.

        Raises `ValueError` for sizes without buckets or a bucket below 1.
        """
        self.latent_sizes = frozenset(latent_sizes)
        self.buckets = tuple(sorted(set(buckets)))
        if self.latent_sizes and not self.buckets:
            raise ValueError("static shapes need at least one bucket of slots")
        if any(bucket < 1 for bucket in self.buckets):
            raise ValueError(f"the buckets are {self.buckets}: slots are counted from 1")

    def bucket(self, slots: int) -> int | None:
        """Return the smallest bucket that holds `slots`; None above the largest."""
        place = bisect_left(self.buckets, slots)
        return self.buckets[place] if place < len(self.buckets) else None

    def pad(self, latent_height: int, latent_width: int, *, unet_slots: int, control_slots: int) -> Padded:
        """Pad UNet and ControlNet each to a bucket of its own, if the size is on the list and both fit."""
        if (latent_height, latent_width) in self.latent_sizes:
            unet = self.bucket(unet_slots)
            control = self.bucket(control_slots) if control_slots else 0
            if unet is not None and control is not None:
                return Padded(unet, control, True)
        return Padded(unet_slots, control_slots, False)


def slot_buckets(rows_max: int) -> tuple[int, ...]:
    """Return the powers of two from 2 up, and finally the slots of `rows_max` guided rows, which memory has to hold.

    So there are few shapes to compile, and padding is always less than half of a batch.
    """
    most = 2 * rows_max
    return (*(1 << power for power in range(1, most.bit_length()) if 1 << power < most), most)


@contextmanager
def _stance(stance: str) -> Iterator[None]:
    set_stance: Any = torch.compiler.set_stance
    with set_stance(stance):
        yield
