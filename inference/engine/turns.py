"""Decides which lane may call a device that cannot hold all lanes at once.

Decisions without threads: `darkroom.inference.engine.monitor` holds the lock, asks and notifies. A lane that takes
no turns enters whenever it has work. The others share one turn:

- No lane enters while another one is inside the device.
- The lane with the turn keeps it while it has work and has made fewer than `calls_max` calls. Then the turn passes to
  the next lane with work, in the order prepare, denoise, finish, prepare.
- So no lane waits longer than the others' calls, and the turn changes no more often than work or fairness requires.

If nothing moves with the turn (`Series.DENOISE_AND_FINISH`), one call each is fair: a finished picture waits for one
step. If weights move (`Series.ALL`), a turn lasts: jobs are prepared in groups, steps go on until the batch is empty or
a slow picture's worth of steps is done, and all pictures that finished meanwhile are decoded together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from darkroom.inference.types import Lane, Series

_ORDER: Final = tuple(Lane)
_ONE_EACH: Final[Mapping[Lane, int]] = {Lane.DENOISE: 1, Lane.FINISH: 1}
_LASTING: Final[Mapping[Lane, int]] = {Lane.PREPARE: 16, Lane.DENOISE: 50, Lane.FINISH: 16}
"""As many calls as a full engine has jobs, as two pictures of the fast preset have steps, and as a full finish queue
has pictures. Each takes at most some twenty seconds on a card that needs turns, compared with about a second for moving
the weights over the bus."""
_CALLS_MAX: Final[Mapping[Series, Mapping[Lane, int]]] = {
    Series.NONE: {},
    Series.DENOISE_AND_FINISH: _ONE_EACH,
    Series.ALL: _LASTING,
}


class Turns:
    """The turn to call the device.

    Invariants:

    - At most one of the lanes that take turns is inside the device.
    - A lane with work gets its turn after at most `calls_max` calls of each other lane.
    """

    def __init__(self, series: Series) -> None:
        self._calls_max = _CALLS_MAX[series]
        self._holder: Lane | None = None
        self._inside: Lane | None = None
        self._calls = 0

    @property
    def shared(self) -> bool:
        """True if any lane takes turns: the others must then learn when a lane leaves or runs out of work."""
        return bool(self._calls_max)

    @property
    def lasting(self) -> bool:
        """True if weights move with the turn, so that only the lane with the turn can be served."""
        return Lane.PREPARE in self._calls_max

    def may_enter(self, lane: Lane, work: Mapping[Lane, bool]) -> bool:
        """Return true if `lane` may enter now. `work` says for every lane whether it has something to do."""
        if lane not in self._calls_max:
            return work[lane]
        return self._inside is None and self._next(work) is lane

    def enter(self, lane: Lane) -> None:
        """Let `lane`, which may enter and has work, into the device."""
        if lane not in self._calls_max:
            return
        assert self._inside is None, f"{lane} enters while {self._inside} is inside"
        self._calls = self._calls + 1 if lane is self._holder else 1
        self._holder = self._inside = lane

    def leave(self, lane: Lane) -> None:
        """Record that `lane` has left the device."""
        if self._inside is lane:
            self._inside = None

    def _next(self, work: Mapping[Lane, bool]) -> Lane | None:
        start = 0
        if self._holder is not None:
            if work[self._holder] and self._calls < self._calls_max[self._holder]:
                return self._holder
            start = _ORDER.index(self._holder) + 1
        # The holder comes last: it continues if no other lane has work.
        ring = (_ORDER[(start + step) % len(_ORDER)] for step in range(len(_ORDER)))
        return next((lane for lane in ring if lane in self._calls_max and work[lane]), None)
