"""Predicts the latencies that one worker would have under a load: a fleet of one on the virtual clock."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from darkroom.consumer.core.limits import Limits
from darkroom.consumer.planner.fleet import Fleet, Spec
from darkroom.consumer.planner.topic import Arrival, Delays
from darkroom.inference.planning.profile import DeviceProfile
from darkroom.inference.types import BatchKey, RenderRequest


@dataclass(slots=True)
class Run:
    """The result of a load."""

    latencies_s: list[float]
    """By arrival: seconds from its time to its published completion."""
    busy_s: float = 0.0
    """Seconds in which the device took steps."""
    ended_at_s: float = 0.0
    steps_by_rows: Counter[int] = field(default_factory=Counter)

    def latency_s(self, share: float) -> float:
        """Return the latency that this share of the requests keeps within, by nearest rank: 0.95 gives the p95."""
        ordered = sorted(self.latencies_s)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def simulate(
    profile: DeviceProfile,
    arrivals: Sequence[Arrival],
    limits: Limits | None = None,
    delays: Delays | None = None,
    *,
    partitions: int = 1,
) -> Run:
    """Return the latencies of a load on one worker whose device has this profile. Equal arguments give equal answers.

    Arrivals, in the order of their times, go to the partitions in turn. Raises `UnansweredError` where a request is
    never answered: a bug of the core, or limits that no load can pass.
    """
    spec = Spec(
        profile, partitions, 1, limits=limits or Limits(), delays=delays or Delays(), rebalance_s=0.0, open_s=0.0
    )
    run = Fleet(spec, arrivals, [number % partitions for number in range(len(arrivals))]).run()
    return Run(run.latencies_s, run.busy_s, run.last_answer_s, run.steps_by_rows)


def poisson(
    template: RenderRequest, key: BatchKey, *, per_second: float, count: int, seed: int, steps: Sequence[int] = ()
) -> Iterator[Arrival]:
    """Yield `count` arrivals of a Poisson process, like the template; `steps`, where given, are drawn from evenly."""
    rng = random.Random(seed)
    at_s = 0.0
    for number in range(count):
        at_s += rng.expovariate(per_second)
        request = replace(template, steps=rng.choice(steps) if steps else template.steps, seed=number)
        yield Arrival(at_s, request, key)
