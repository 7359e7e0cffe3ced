"""The goals, and by how much each is met or missed. Only those whose page was run are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

GAINING = ("tiny", "gpu-512")
"""Curves on which a batch of 8 gives at least three times the throughput."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What is measured, and the bound it is held against."""

    what: str
    measured: float
    bound: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    @property
    def verdict(self) -> str:
        """`met`, or by how much it is missed."""
        if self.met:
            return "met"
        if self.bound == 0:
            return f"missed by {self.measured:g}"
        return f"missed by {abs(self.measured / self.bound - 1):.1%}"

    @property
    def asked(self) -> str:
        """The bound in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}"


def goals(figures: dict[str, Any]) -> list[Goal]:
    """Of the figures of a run."""
    found: list[Goal] = []
    if "peers" in figures:
        found += _peers(figures["peers"])
    if "tiny" in figures:
        _, theirs = best_peer(figures["tiny"], "per_second")
        ratio = figures["tiny"]["darkroom"]["per_second"] / theirs
        found.append(Goal("the built-in model, mixed backlog: images/s over the best peer's", ratio, 1.3))
    if "scale" in figures:
        found += _scale(figures["scale"])
    if "cold" in figures:
        found.append(Goal("cold start to first picture over a bare script's", figures["cold"]["ratio"], 1.3, False))
    if "kill" in figures:
        ours = figures["kill"]["contenders"]["darkroom"]
        found.append(Goal("killed twice: requests lost and repeated", ours["lost"] + ours["repeated"], 0, False))
    return found


def best_peer(contenders: dict[str, Any], name: str) -> tuple[str, float]:
    """The most of a figure among those that are not Darkroom."""
    peers = {kind: one[name] for kind, one in contenders.items() if kind != "darkroom"}
    best = max(peers, key=lambda kind: peers[kind])
    return best, peers[best]


def _peers(figures: dict[str, Any]) -> Iterator[Goal]:
    memory = figures["against_memory"]["ratio"]
    yield Goal("20 ms steps, backlog: throughput over the same rows from memory", memory, 0.98)
    for curve, loads in figures["backlog"].items():
        for load, contenders in loads.items():
            _, theirs = best_peer(contenders, "per_second")
            bound = 1.3 if load == "mixed" and curve in GAINING else 1.0
            what = f"{curve} curve, {load} backlog: images/s over the best peer's"
            yield Goal(what, contenders["darkroom"]["per_second"] / theirs, bound)
    contenders = figures["poisson"]["70%"]["contenders"]
    p95 = {kind: one["delay_s"]["p95"] for kind, one in contenders.items()}
    ours = p95.pop("darkroom")
    yield Goal("70% load, tiny curve: p95 of queueing delay over the best peer's", ours / min(p95.values()), 0.6, False)
    yield Goal("CPU ms a request without the store, steps of 0 ms", figures["no_store"]["cpu_ms_per_request"], 2, False)
    cpu = figures["backlog"]["tiny"]["mixed"]["darkroom"]["cpu_ms_per_request"]
    yield Goal("CPU ms a request with the store, tiny curve, its steps counted", cpu, 6, False)


def _scale(figures: dict[str, Any]) -> Iterator[Goal]:
    rates = {one["workers"]: one["steady_per_second"] for one in figures["workers"]}
    yield Goal("4 workers: images/s over one worker's", rates[4] / rates[1], 3.8)
    costs = [one["cpu_ms_per_request"] for one in figures["backlog"] if one["requests"] >= 1000]
    if costs:
        yield Goal("CPU ms a request with the store, steps of 0 ms, backlogs from 1,000", max(costs), 6, False)
