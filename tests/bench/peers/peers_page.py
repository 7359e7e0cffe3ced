"""Everybody under the same loads on the simulated device: a backlog on each curve, Poisson arrivals on the tiny one.

Under a backlog one runs after the other, but for the two that call the pipeline for one request at a time: they are
busy with sleeping and run side by side. Under Poisson arrivals all run at once and get each request at the same
moment, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.peers.contenders import BATCH, DARKROOM, ENDPOINT, PLAIN, RAY, WIDE_BATCH, Kind, installed
from tests.bench.peers.loads import (
    CURVES,
    Load,
    alone_s,
    backlog,
    curve,
    curve_file,
    mixed,
    poisson,
    uniform,
)
from tests.bench.peers.measuring import measured, running

Say = Callable[[str], None]

BACKLOG = {"tiny": (120, 64), "gpu-512": (120, 64), "gpu-1024": (64, 32), "flat": (64, 32)}
"""Mixed and uniform requests by curve: where batches gain nothing everybody takes as long as the slowest."""
SHARES = (0.4, 0.7, 0.9)
ARRIVALS = {0.4: 100, 0.7: 240, 0.9: 200}
"""Requests by load: the most where a goal hangs on them."""
QUICK = 10
"""What a quick run divides the numbers by."""


async def peers(
    environment: Mapping[str, str], folder: Path, seed: int, *, quick: bool, say: Say, curves: Sequence[str] = CURVES
) -> dict[str, Any]:
    """All figures of the page."""
    scale = QUICK if quick else 1
    backlogs: dict[str, Any] = {}
    for name in curves:
        say(f"backlog, {name} curve")
        backlogs[name] = await _backlogs(environment, folder, name, seed, scale)
    loads: dict[str, Any] = {}
    for share in SHARES:
        say(f"Poisson arrivals at {share:.0%} of the plain worker's capacity, tiny curve")
        loads[f"{share:.0%}"] = await _arrivals(environment, folder, share, seed, scale)
    return {"seed": seed, "backlog": backlogs, "poisson": loads}


async def _backlogs(environment: Mapping[str, str], folder: Path, name: str, seed: int, scale: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"mixed": {}, "uniform": {}}
    many, few = BACKLOG[name]

    async def run(kind: Kind) -> None:
        async with running(environment, folder, kind, curve_file(name)) as started:
            figures["mixed"][kind.name] = await measured(started, backlog(mixed(many // scale, seed)), curve(name))
            figures["uniform"][kind.name] = await measured(started, backlog(uniform(few // scale, seed)), curve(name))

    await asyncio.gather(run(ENDPOINT), run(PLAIN))
    for kind in (BATCH, WIDE_BATCH, RAY, DARKROOM):
        if installed(kind):
            await run(kind)
    return figures


async def _arrivals(
    environment: Mapping[str, str], folder: Path, share: float, seed: int, scale: int
) -> dict[str, Any]:
    profile = curve("tiny")
    requests = mixed(ARRIVALS[share] // scale, seed)
    per_second = share / statistics.mean(alone_s(one, profile) for one in requests)
    kinds = [kind for kind in (ENDPOINT, PLAIN, BATCH, RAY, DARKROOM) if installed(kind)]
    figures: dict[str, Any] = {}
    everybody = asyncio.Barrier(len(kinds))

    async def run(kind: Kind, load: Load) -> None:
        async with running(environment, folder, kind, curve_file("tiny")) as started:
            await everybody.wait()
            figures[kind.name] = await measured(started, load, profile)

    await asyncio.gather(*(run(kind, poisson(requests, per_second, seed)) for kind in kinds))
    return {"per_second": per_second, "contenders": figures}
