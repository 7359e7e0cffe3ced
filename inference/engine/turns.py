"""Whose turn it is on a device that cannot hold all lanes at once.

Decisions without threads: `darkroom.inference.engine.monitor` holds the lock, asks and notifies. A lane that is free of
turns goes whenever it likes. The others share one turn:

- Nobody goes while another one is inside of the device.
- Who has the turn keeps it while there is work for it and its calls are below `calls_max` of its lane; after that, or
  without work, the turn goes on to the next lane with work, in the order prepare, denoise, finish, prepare.
- So no lane waits longer than the others' calls, and the turn changes no more often than work or fairness asks.

Where nothing moves with the turn (`Series.DENOISE_AND_FINISH`) one call each is fair: a finished picture waits for one
step. Where weights move (`Series.ALL`) a turn lasts: jobs are prepared by the batch, steps go on until the batch is
empty or a slow picture's worth of steps is done, and what has finished meanwhile is decoded together.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Lane(Enum):
    """One of the three ways into a device."""

    PREPARE = "prepare"
    DENOISE = "denoise"
    FINISH = "finish"


class Series(Enum):
    """Which lanes of a device must take turns, its memory being short."""

    NONE = "none"
    DENOISE_AND_FINISH = "denoise and finish"
    """A step and a decode do not fit together; a turn costs nothing."""
    ALL = "all"
    """Weights move to the device for their lane's turn: a turn costs their way, so it lasts."""


_ORDER: Final = tuple(Lane)
_ONE_EACH: Final[Mapping[Lane, int]] = {Lane.DENOISE: 1, Lane.FINISH: 1}
_LASTING: Final[Mapping[Lane, int]] = {Lane.PREPARE: 16, Lane.DENOISE: 50, Lane.FINISH: 16}
"""A full engine's jobs, two of the fast preset's pictures, a full finish queue: some twenty seconds each at the most on
a card that needs turns, beside which the weights' way over the bus (about a second) is small."""
_CALLS_MAX: Final[Mapping[Series, Mapping[Lane, int]]] = {
    Series.NONE: {},
    Series.DENOISE_AND_FINISH: _ONE_EACH,
    Series.ALL: _LASTING,
}


class Turns:
    """Who may go into the device.

    Invariants:

    - Of the lanes that take turns at most one is inside.
    - A lane with work gets its turn after at most `calls_max` calls of each other lane.
    """

    def __init__(self, series: Series) -> None:
        self._calls_max = _CALLS_MAX[series]
        self._holder: Lane | None = None
        self._inside: Lane | None = None
        self._calls = 0

    @property
    def shared(self) -> bool:
        """Whether any lane takes turns: then a lane's coming out, or its running out of work, concerns the others."""
        return bool(self._calls_max)

    @property
    def lasting(self) -> bool:
        """Whether weights move with the turn, so that only who has it can be served."""
        return Lane.PREPARE in self._calls_max

    def may_go(self, lane: Lane, work: Mapping[Lane, bool]) -> bool:
        """Whether `lane` may go in now. `work` tells of every lane whether there is something for it to do."""
        if lane not in self._calls_max:
            return work[lane]
        return self._inside is None and self._next(work) is lane

    def go(self, lane: Lane) -> None:
        """`lane` goes in: it may, and its work is there."""
        if lane not in self._calls_max:
            return
        assert self._inside is None, f"{lane} goes in while {self._inside} is inside"
        self._calls = self._calls + 1 if lane is self._holder else 1
        self._holder = self._inside = lane

    def come(self, lane: Lane) -> None:
        """`lane` came out again."""
        if self._inside is lane:
            self._inside = None

    def _next(self, work: Mapping[Lane, bool]) -> Lane | None:
        start = 0
        if self._holder is not None:
            if work[self._holder] and self._calls < self._calls_max[self._holder]:
                return self._holder
            start = _ORDER.index(self._holder) + 1
        # The holder comes last: alone with work it goes on.
        ring = (_ORDER[(start + step) % len(_ORDER)] for step in range(len(_ORDER)))
        return next((lane for lane in ring if lane in self._calls_max and work[lane]), None)
