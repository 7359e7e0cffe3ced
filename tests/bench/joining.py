"""What a third worker's joining costs two busy ones: how long their devices stand still, by their own account.

Real processes under a backlog. A worker logs each time its device waited although rows were there, measured on the
engine's own threads (`darkroom.consumer.worker.idle_time`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from darkroom.consumer.worker.idle_time import LOGGED_S_MIN
from darkroom.producer.client.client import Client
from tests.bench.throughput import ROWS_MAX, STEP_MS, mixed_load
from tests.integration.fleet import Fleet, WorkerProcess, until, wait_until

QUIET_S = 3.0
"""Two workers alone: what is usual on this machine."""
SETTLED_S = 2.0
"""After the third has its partitions: openings, and rows of lost partitions leaving."""
LIMIT_S = 120.0


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of wall-clock time, in seconds since the epoch."""

    begins: float
    ends: float


async def a_third_joins(
    environment: Mapping[str, str], folder: Path, count: int, seed: int, rounds: int
) -> dict[str, float]:
    """The longest waits of the two busy workers' devices, in milliseconds: `before_ms` without the third, `starting_ms`
    while its process starts, `during_ms` from the rebalance's beginning until all partitions are open again, and
    `empty_ms` the part of that for which no row was on the device. The third joins and leaves `rounds` times, and the
    worst counts: a wait with rows on the device is a wait for a processor core, which on a busy machine is anybody's.
    """
    fleet = Fleet(environment, folder, DARKROOM_BATCH__MAX_ROWS=str(ROWS_MAX))
    await fleet.make_topics()
    async with Client(fleet.settings, follow=False) as client:
        await client.send(mixed_load(count, seed))
    try:
        busy = [fleet.start("--simulated-device", str(STEP_MS)) for _ in range(2)]
        await until(lambda: all(len(one.events("published")) > ROWS_MAX for one in busy), LIMIT_S, "both to be busy")
        began = time.time()
        await asyncio.sleep(QUIET_S)
        alone = [Period(began, time.time())]
        starts, joins = [], []
        for _ in range(rounds):
            start, join = await asyncio.to_thread(_join_and_leave, fleet, busy)
            starts.append(start)
            joins.append(join)
        left = count - sum(len(one.events("published")) for one in fleet.workers)
        if left < 2 * ROWS_MAX:
            raise RuntimeError(f"only {left} requests were left at the end: not a backlog; send more than {count}")
    finally:
        fleet.stop()
    waits = [wait for worker in busy for wait in worker.events("the device waited")]
    return {
        "step_ms": STEP_MS,
        "rounds": rounds,
        "before_ms": _longest_ms(waits, alone),
        "starting_ms": _longest_ms(waits, starts),
        "during_ms": _longest_ms(waits, joins),
        "empty_ms": _longest_ms([wait for wait in waits if wait["joined"] == wait["rows"]], joins),
    }


def _join_and_leave(fleet: Fleet, busy: list[WorkerProcess]) -> tuple[Period, Period]:
    """When a third process started, and when it joined. It has left again at the end."""
    began = time.time()
    seen = [len(one.events("partitions assigned")) for one in busy]
    third = fleet.start("--simulated-device", str(STEP_MS))
    wait_until(lambda: bool(third.events("published")), LIMIT_S, "the third to take its share")
    rebalance = min(_at(one.events("rebalance")[before]) for one, before in zip(busy, seen, strict=True))
    settled = _at(third.events("partitions assigned")[0]) + SETTLED_S
    time.sleep(max(0.0, settled - time.time()))
    if third.drain() != 0:
        raise RuntimeError(f"{third.name} did not drain")
    wait_until(
        lambda: all(len(one.events("partitions assigned")) > n + 1 for one, n in zip(busy, seen, strict=True)),
        LIMIT_S,
        "the two to have everything again",
    )
    return Period(began, rebalance), Period(rebalance, settled)


def _longest_ms(waits: list[dict[str, Any]], periods: list[Period]) -> float:
    """What is too short to be logged counts as the least that would be."""
    seconds = [float(wait["seconds"]) for wait in waits if any(one.begins <= _at(wait) <= one.ends for one in periods)]
    return max(seconds, default=LOGGED_S_MIN) * 1000


def _at(entry: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(entry["timestamp"]).timestamp()
