"""Everybody under the same loads on the simulated device: a backlog on each curve, Poisson arrivals on the tiny one.

All run at once, each with a sleeping device of its own, and get each request at the same moment, so that whatever else
the machine does meets all of them. The devices' busy ratios say how little they are in each other's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from darkroom.inference.planning.profile import DeviceProfile
from tests.bench.peers.contenders import KINDS, WIDE_BATCH, Kind, NotStarted, installed
from tests.bench.peers.kept import Kept
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
from tests.bench.peers.measuring import Running, measured, running

Say = Callable[[str], None]

BACKLOG = {"tiny": (120, 96), "gpu-512": (120, 96), "gpu-1024": (64, 32), "flat": (64, 32)}
"""Mixed and uniform requests by curve: where batches gain nothing everybody takes as long as the slowest."""
ARRIVALS_CURVE = "tiny"
SHARES = (0.4, 0.7, 0.9)
ARRIVALS = {0.4: 80, 0.7: 200, 0.9: 120}
"""Requests by load: the most where a goal hangs on them."""
QUICK = 10
"""What a quick run divides the numbers by."""


async def peers(
    kept: Kept,
    environment: Mapping[str, str],
    folder: Path,
    seed: int,
    *,
    quick: bool,
    say: Say,
    curves: Sequence[str] = CURVES,
) -> None:
    """Measure the backlog on each of the curves, and arrivals on the tiny one where it is among them."""
    scale = QUICK if quick else 1
    for name in curves:
        say(f"backlog, {name} curve")
        await _backlogs(kept, environment, folder, name, seed, scale, say)
    for share in SHARES if ARRIVALS_CURVE in curves else ():
        say(f"Poisson arrivals at {share:.0%} of the plain worker's capacity, {ARRIVALS_CURVE} curve")
        kept.keep(await _arrivals(environment, folder, share, seed, scale, say), "poisson", f"{share:.0%}")


async def _backlogs(
    kept: Kept, environment: Mapping[str, str], folder: Path, name: str, seed: int, scale: int, say: Say
) -> None:
    many, few = BACKLOG[name]
    loads = {"mixed": backlog(mixed(many // scale, seed)), "uniform": backlog(uniform(few // scale, seed))}
    async with _started(environment, folder, (*KINDS, WIDE_BATCH), name, say) as ready:
        for load, requests in loads.items():
            figures = await _all_measured(ready, requests, curve(name))
            kept.keep(figures, "backlog", name, load)
            rates = (f"{kind} {one['per_second']:.2f}" for kind, one in figures.items())
            say(f"   {load}, images/s: {', '.join(rates)}")


async def _arrivals(
    environment: Mapping[str, str], folder: Path, share: float, seed: int, scale: int, say: Say
) -> dict[str, Any]:
    profile = curve(ARRIVALS_CURVE)
    requests = mixed(ARRIVALS[share] // scale, seed)
    per_second = share / statistics.mean(alone_s(one, profile) for one in requests)
    async with _started(environment, folder, KINDS, ARRIVALS_CURVE, say) as ready:
        figures = await _all_measured(ready, poisson(requests, per_second, seed), profile)
    delays = (f"{kind} {one['delay_s']['p95']:.2f}" for kind, one in figures.items())
    say(f"   p95 of queueing delay, s: {', '.join(delays)}")
    return {"per_second": per_second, "contenders": figures}


@contextlib.asynccontextmanager
async def _started(
    environment: Mapping[str, str], folder: Path, kinds: Sequence[Kind], name: str, say: Say
) -> AsyncIterator[dict[str, Running]]:
    """Those that are installed and did start, by their names."""
    ready: dict[str, Running] = {}
    async with contextlib.AsyncExitStack() as stack:

        async def enter(kind: Kind) -> None:
            try:
                started = running(environment, folder, kind, curve_file(name))
                ready[kind.name] = await stack.enter_async_context(started)
            except NotStarted as error:
                say(f"   left out, {str(error)[:200]}")

        await asyncio.gather(*(enter(kind) for kind in kinds if installed(kind)))
        yield ready


async def _all_measured(ready: Mapping[str, Running], load: Load, profile: DeviceProfile) -> dict[str, Any]:
    found = await asyncio.gather(*(measured(one, load, profile) for one in ready.values()))
    return dict(zip(ready, found, strict=True))
