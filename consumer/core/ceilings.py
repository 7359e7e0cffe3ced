"""Row ceilings learned from running out of memory, and for how long each is believed.

A ceiling halves a shape's batch at once. It is lifted with care, since what took the memory may be gone (another
process, a larger shape's leftovers) or may not: after a wait the ceiling is doubled, at most to the cap; once it has
stood at the cap for a wait it is forgotten. Running out of memory after a rise is a failed probe: it lowers the ceiling
again and doubles the wait, up to `PROBE_DOUBLINGS_MAX` times. A probe fails as a step fails, atomically: nobody's
picture changes by it.

Invariants, each with a test of its name:

- `a_ceiling_only_rises_after_its_wait`
- `a_failed_probe_doubles_the_wait_within_bounds`
- `a_ceiling_at_the_cap_is_forgotten`
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

PROBE_DOUBLINGS_MAX = 4
"""Sixteen waits of five minutes are more than an hour: rare enough not to matter, often enough to heal by itself."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """At most so many rows of a shape, until it is tried again."""

    rows: int
    wait_s: float
    until: float
    raised: bool = False
    """Whether it was raised since it was last lowered."""


class Ceilings:
    """By shape. Holds only shapes that ran out of memory in the last waits."""

    def __init__(self, probe_s: float) -> None:
        """`probe_s`: the first wait, in seconds of the core's clock."""
        self._probe_s = probe_s
        self._of: dict[Hashable, Ceiling] = {}

    def of(self, key: Hashable) -> int | None:
        """The ceiling of a shape, where it has one."""
        one = self._of.get(key)
        return None if one is None else one.rows

    def lower(self, key: Hashable, rows_max: int, now: float) -> None:
        """So many rows, at the most, after more of them ran out of memory. At least one."""
        earlier = self._of.get(key)
        wait_s = self._probe_s if earlier is None else earlier.wait_s
        if earlier is not None and earlier.raised:
            wait_s = min(2 * wait_s, self._probe_s * 2**PROBE_DOUBLINGS_MAX)
        rows = rows_max if earlier is None else min(rows_max, earlier.rows)
        self._of[key] = Ceiling(max(1, rows), wait_s, now + wait_s)

    def lift(self, key: Hashable, cap: int, now: float) -> None:
        """Raise or forget the ceiling of a shape whose cap this is, if its wait is over."""
        one = self._of.get(key)
        if one is None or now < one.until:
            return
        if one.rows >= cap:
            del self._of[key]
        else:
            self._of[key] = Ceiling(min(2 * one.rows, cap), one.wait_s, now + one.wait_s, raised=True)
