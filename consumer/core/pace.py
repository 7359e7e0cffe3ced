"""Estimates the rows a second that leave the device, and so how many have to be begun ahead of it.

What is begun is in the journal, and after a crash all of that runs alone. So no more is begun than covers the time
that a look-up and a journal's commit take.
"""

from __future__ import annotations

import math

MEMORY_S = 1.0
"""Rows that left longer ago than about so long say little about the pace now."""
COVER_S = 1.0
"""The time that beginning may take: a look-up and a transaction, some tenths of a second on a busy machine."""


class Pace:
    """An exponentially forgetting count of the rows that left the device."""

    def __init__(self) -> None:
        self._weight = 0.0
        self._at = 0.0

    def left(self, rows: int, now: float) -> None:
        """So many rows are complete."""
        self._weight = self._decayed(now) + rows
        self._at = now

    def rows_per_s(self, now: float) -> float:
        """The pace of the last seconds."""
        return self._decayed(now) / MEMORY_S

    def rows_in(self, seconds: float, now: float) -> int:
        """Rows that leave the device in a time to come, at the pace of the last seconds."""
        return math.ceil(self.rows_per_s(now) * seconds)

    def rows_to_begin(self, now: float, *, rows_min: int, rows_max: int) -> int:
        """Rows that may be looked up or wait for the journal: what leaves the device in `COVER_S`, within bounds."""
        return min(rows_max, max(rows_min, self.rows_in(COVER_S, now)))

    def _decayed(self, now: float) -> float:
        return self._weight * math.exp((self._at - now) / MEMORY_S)
