"""The goals, and by how much each is met or missed. Only those whose figures were measured are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.bench.peers.contenders import DARKROOM

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
    if ratio := over_best_peer(figures.get("tiny", {})):
        found.append(Goal("the built-in model, mixed backlog: images/s over the best peer's", ratio, 1.3))
    if "scale" in figures:
        found += _scale(figures["scale"])
    if (ratio := _at(figures, "cold", "ratio")) is not None:
        found.append(Goal("cold start to first picture over a bare script's", ratio, 1.3, False))
    if (ours := _at(figures, "kill", "contenders", DARKROOM.name)) is not None:
        found.append(Goal("killed twice: requests lost and repeated", ours["lost"] + ours["repeated"], 0, False))
    return found


def over_best_peer(contenders: dict[str, Any]) -> float | None:
    """Darkroom's images a second over the most among the others; None where it or all others are missing."""
    rates = {kind: one["per_second"] for kind, one in contenders.items()}
    ours = rates.pop(DARKROOM.name, None)
    return ours / max(rates.values()) if ours is not None and rates else None


def _at(figures: dict[str, Any], *place: str) -> Any:
    """What stands at a path of names; None where that was not measured."""
    inner: Any = figures
    for name in place:
        inner = inner.get(name)
        if inner is None:
            return None
    return inner


def _peers(figures: dict[str, Any]) -> Iterator[Goal]:
    if (memory := _at(figures, "against_memory", "ratio")) is not None:
        yield Goal("20 ms steps, backlog: throughput over the same rows from memory", memory, 0.98)
    for curve, loads in figures.get("backlog", {}).items():
        for load, contenders in loads.items():
            if (ratio := over_best_peer(contenders)) is not None:
                bound = 1.3 if load == "mixed" and curve in GAINING else 1.0
                yield Goal(f"{curve} curve, {load} backlog: images/s over the best peer's", ratio, bound)
    contenders = _at(figures, "poisson", "70%", "contenders") or {}
    p95 = {kind: one["delay_s"]["p95"] for kind, one in contenders.items()}
    ours = p95.pop(DARKROOM.name, None)
    if ours is not None and p95:
        what = "70% load, tiny curve: p95 of queueing delay over the best peer's"
        yield Goal(what, ours / min(p95.values()), 0.6, False)
    if (cpu := _at(figures, "no_store", "cpu_ms_per_request")) is not None:
        yield Goal("CPU ms a request without the store, steps of 0 ms", cpu, 2, False)
    if (cpu := _at(figures, "backlog", "tiny", "mixed", DARKROOM.name, "cpu_ms_per_request")) is not None:
        yield Goal("CPU ms a request with the store, tiny curve, its steps counted", cpu, 6, False)


def _scale(figures: dict[str, Any]) -> Iterator[Goal]:
    rates = {one["workers"]: one["steady_per_second"] for one in figures.get("workers", ())}
    if {1, 4} <= rates.keys():
        yield Goal("4 workers: images/s over one worker's", rates[4] / rates[1], 3.8)
    costs = [one["cpu_ms_per_request"] for one in figures.get("backlog", ()) if one["requests"] >= 1000]
    if costs:
        yield Goal("CPU ms a request with the store, steps of 0 ms, backlogs from 1,000", max(costs), 6, False)
