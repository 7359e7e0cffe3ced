"""A load over a time: what `darkroom plan` is asked about, and the windows of it that are looked at."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from darkroom.consumer.planner.load import Mix, Rate, arrivals_at, partitions_of, times_of
from darkroom.consumer.planner.topic import Arrival

WINDOWS: Final = 8
"""Of a time that is too long to be simulated whole: enough to tell their spread."""
WARM_UP_SHARE: Final = 0.5
"""Of a window, before it: its latencies are not counted, so that it does not begin with an empty fleet."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of the time, in seconds from its beginning.

    What arrives from `warm_s` on and before `begin_s` only warms the fleet up.
    """

    warm_s: float
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Scenario:
    """Arrivals by a rate or by a trace, over `hours`, of a mix."""

    name: str
    rate: Rate | None
    trace: Sequence[float] | None
    horizon_s: float
    mix: Mix
    seed: int

    @property
    def requests_expected(self) -> float:
        """Over the whole time."""
        if self.trace is not None:
            return float(bisect_left(self.trace, self.horizon_s))
        assert self.rate is not None
        pieces = max(1, round(self.horizon_s))
        return sum(self.rate.at(second) for second in range(pieces)) * self.horizon_s / pieces

    @property
    def is_steady(self) -> bool:
        """Return whether the rate never changes."""
        return self.rate is not None and len(set(self.rate.per_second)) == 1

    def per_second(self, begin_s: float, end_s: float) -> float:
        """The rate between two times."""
        if self.trace is not None:
            inside = bisect_left(self.trace, end_s) - bisect_left(self.trace, begin_s)
            return inside / max(1e-9, end_s - begin_s)
        assert self.rate is not None
        return self.rate.at((begin_s + end_s) / 2)

    def windows(self, requests_max: float, length_s_min: float = 0.0) -> tuple[Window, ...]:
        """The whole time where it has at most so many requests, else windows spread evenly over it that have.

        No window is shorter than `length_s_min`, so that there may be more requests: the whole time at the most.
        """
        expected = self.requests_expected
        stratum = self.horizon_s / WINDOWS
        share = requests_max / expected if expected > requests_max else 1.0
        length = max(stratum * share / (1 + WARM_UP_SHARE), length_s_min)
        if share == 1.0 or length * (1 + WARM_UP_SHARE) > stratum:
            return (Window(0.0, 0.0, self.horizon_s),)
        middles = [stratum * (number + 0.5) for number in range(WINDOWS)]
        return tuple(
            Window(max(0.0, at - length * (0.5 + WARM_UP_SHARE)), max(0.0, at - length / 2), at + length / 2)
            for at in middles
        )

    def arrivals(self, window: Window) -> list[Arrival]:
        """Those of a window, their times counted from its warm-up's beginning."""
        if self.trace is not None:
            between = slice(bisect_left(self.trace, window.warm_s), bisect_left(self.trace, window.end_s))
            times = list(self.trace[between])
        else:
            assert self.rate is not None
            times = times_of(self.rate, window.warm_s, window.end_s, self.seed)
        return arrivals_at([at - window.warm_s for at in times], self.mix, self.seed)

    def partitions(self, number: int, partitions: int) -> list[int]:
        """Where each of so many arrivals goes."""
        return partitions_of(number, partitions, self.seed)

    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "name": self.name,
            "requests": round(self.requests_expected),
            "hours": self.horizon_s / 3600,
            "mix": self.mix.document(),
            "seed": self.seed,
        }
