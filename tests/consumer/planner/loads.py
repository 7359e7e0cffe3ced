"""Loads and fleets for the planner's tests: small, and with round numbers."""

from __future__ import annotations

from collections.abc import Sequence

from darkroom.consumer.core.limits import Limits
from darkroom.consumer.planner.fleet import Fleet, FleetRun, Spec
from darkroom.consumer.planner.gpus import profile_of_curve
from darkroom.consumer.planner.load import DEFAULT_MIX, arrivals_at, partitions_of, steady, times_of
from darkroom.consumer.planner.topic import Delays

ONE_S = profile_of_curve({1: 40.0, 2: 80.0})
"""A request of the mix takes 1.15 s on the average, and sharing gains nothing."""
LIMITS = Limits(batch_rows_max=2, linger_s=0.0)
DELAYS = Delays(look_up_s=0.01, commit_s=0.02, prepare_s=0.01, settle_s=0.03)


def poisson_times(per_second: float, seconds: float, seed: int = 1) -> list[float]:
    return times_of(steady(per_second), 0.0, seconds, seed)


def run(spec: Spec, times: Sequence[float], *, seed: int = 1, until_s: float = 0.0) -> FleetRun:
    arrivals = arrivals_at(times, DEFAULT_MIX, seed)
    return Fleet(spec, arrivals, partitions_of(len(arrivals), spec.partitions, seed), until_s=until_s).run()


def spec(replicas: int, **fields: object) -> Spec:
    made = {"profile": ONE_S, "partitions": 12, "limits": LIMITS, "delays": DELAYS, "start_s": 20.0} | fields
    return Spec(replicas=replicas, **made)  # type: ignore[arg-type]
