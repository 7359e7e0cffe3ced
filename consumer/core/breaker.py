"""The circuit breaker in front of the store: one failure holds back everybody's calls, one success lets them go.

closed --failure--> open --time--> half open --success--> closed
                      ^                |
                      +----failure-----+
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from darkroom.consumer.core.limits import Limits

CallT = TypeVar("CallT")


class Breaker(Generic[CallT]):
    """Holds calls back while the store is away.

    Invariants: no call is lost, none is let go twice, and while it is open at most one probe is under way.
    The number of calls held is bounded by the jobs that may be past waiting.
    """

    def __init__(self, limits: Limits, jitter: float) -> None:
        self._limits = limits
        self._jitter = jitter
        self._held: deque[CallT] = deque()
        self._failures = 0
        self._retry_at = 0.0
        self._probe: CallT | None = None

    @property
    def is_open(self) -> bool:
        """Return whether the store is taken to be away."""
        return self._failures > 0

    @property
    def wake_at(self) -> float | None:
        """When the next probe may go, if one is to go."""
        return self._retry_at if self.is_open and self._probe is None else None

    def pass_or_hold(self, call: CallT) -> list[CallT]:
        """The calls to make now for this one: itself, or none while the breaker is open."""
        if self.is_open:
            self._held.append(call)
            return []
        return [call]

    def failed(self, call: CallT, now: float) -> None:
        """A call failed: hold it, and wait longer than the last time. Calls that failed together count once."""
        self._held.append(call)
        if not self.is_open or call == self._probe:
            self._failures += 1
            self._retry_at = now + self._limits.backoff_s(self._failures, self._jitter)
            self._probe = None

    def succeeded(self) -> list[CallT]:
        """A call succeeded: the store is there. Returns all calls that were held."""
        released = list(self._held)
        self._held.clear()
        self._failures = 0
        self._probe = None
        return released

    def probe(self, now: float) -> list[CallT]:
        """The one held call that may be tried now, if it is time. With none held the breaker just closes."""
        wake_at = self.wake_at
        if wake_at is None or now < wake_at:
            return []
        if not self._held:
            return self.succeeded()
        self._probe = self._held.popleft()
        return [self._probe]

    def abandon(self, belongs: Callable[[CallT], bool]) -> None:
        """A job is over: hold its calls no longer, and wait for none of its answers."""
        if self.is_open:
            self._held = deque(call for call in self._held if not belongs(call))
            if self._probe is not None and belongs(self._probe):
                self._probe = None
