"""Tells of records that cannot be read, a line a minute however many they are."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

TELL_S: Final = 60.0
"""Between two lines: whoever floods a topic with what is no event must not flood the log."""


class PassedOver:
    """Counts what one reader passes over."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._told_at: float | None = None
        self._untold = 0
        self.total = 0
        """Records that were passed over so far."""

    def add(self, record: Any, why: str) -> str | None:
        """Count a record; return the sentence to log, where it is time for one."""
        self.total += 1
        self._untold += 1
        now = self._clock()
        if self._told_at is not None and now - self._told_at < TELL_S:
            return None
        others = f"; {self._untold - 1} more since the last such line" if self._untold > 1 else ""
        self._told_at, self._untold = now, 0
        place = f"{record.topic}-{record.partition}-{record.offset}"
        return f"passed over {place}, which is not an event of ours: {why}{others}"
