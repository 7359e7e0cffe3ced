"""The shapes that are compiled, and how a batch is padded to one of them.

A compiled region is made for one shape, and making it takes seconds to minutes: so there is a fixed list of picture
sizes and of slot counts, all made before the worker is ready, and whatever is not on the list runs eagerly and
unpadded.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple


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
