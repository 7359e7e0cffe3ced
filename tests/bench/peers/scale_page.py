"""What a request costs Darkroom as things grow: workers, the backlog, partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench.peers.client import Answers, reading, send
from tests.bench.peers.contenders import DARKROOM, Contender, Place
from tests.bench.peers.kept import Kept
from tests.bench.peers.loads import Load, backlog
from tests.bench.peers.measuring import LIMIT_S, percentile, prepare
from tests.bench.peers.usage import usage
from tests.bench.throughput import STEP_MS, mixed_load

Say = Callable[[str], None]

WORKERS = (1, 2, 4, 8)
REQUESTS_A_WORKER = 320
"""About 25 s of 20 ms steps with 8 rows."""
PARTITIONS_FOR_WORKERS = 16
"""As many for each, whatever their number: of 12, some of eight workers would have one and some two."""
STEADY = (0.1, 0.7)
"""Shares of the answers between which the rate is taken: before the end, when the partitions of one worker are already
empty, since request ids do not fall evenly on partitions."""
BACKLOGS = (10, 100, 1_000, 10_000)
PARTITIONS = (1, 4, 16, 64)
REQUESTS_FOR_PARTITIONS = 600
PACED, UNPACED = (f"{STEP_MS:.0f}", "0")


async def scale(kept: Kept, environment: Mapping[str, str], folder: Path, seed: int, *, quick: bool, say: Say) -> None:
    """Measure three curves. With several workers a step is 20 ms; elsewhere it is none: what is left is Darkroom's."""
    by = 10 if quick else 1
    for count in WORKERS:
        say(f"{count} workers")
        requests = count * REQUESTS_A_WORKER // by
        load = mixed_backlog(requests, seed)
        partitions = PARTITIONS_FOR_WORKERS
        found = await _fleet(environment, folder, load, workers=count, partitions=partitions, step_ms=PACED)
        say(_shown(found))
        kept.keep_one_more({"workers": count, **found}, "workers")
    for count in BACKLOGS:
        say(f"a backlog of {count}")
        found = await _fleet(environment, folder, mixed_backlog(max(10, count // by), seed), step_ms=UNPACED)
        say(_shown(found))
        kept.keep_one_more({"backlog": count, **found}, "backlog")
    for count in PARTITIONS:
        say(f"{count} partitions")
        load = mixed_backlog(REQUESTS_FOR_PARTITIONS // by, seed)
        found = await _fleet(environment, folder, load, partitions=count, step_ms=UNPACED)
        say(_shown(found))
        kept.keep_one_more({"partitions": count, **found}, "partitions")


def _shown(found: Mapping[str, float]) -> str:
    return f"   {found['steady_per_second']:.1f} images/s, CPU {found['cpu_ms_per_request']:.2f} ms a request"


def mixed_backlog(count: int, seed: int) -> Load:
    """Without poses: here they would only make the client slow."""
    return backlog(mixed_load(count, seed))


async def _fleet(
    environment: Mapping[str, str],
    folder: Path,
    load: Load,
    *,
    step_ms: str,
    workers: int = 1,
    partitions: int | None = None,
) -> dict[str, Any]:
    """`partitions` of the topic of requests; None leaves the default."""
    settings = {} if partitions is None else {"DARKROOM_TOPICS__REQUESTS_PARTITIONS": str(partitions)}
    place = Place(environment, folder, DARKROOM, DARKROOM_SIMULATED__STEP_MS=step_ms, **settings)
    await prepare(place)
    fleet = [Contender(DARKROOM, place, None) for _ in range(workers)]
    try:
        for number, one in enumerate(fleet):
            await asyncio.to_thread(one.start, number)
        for one in fleet:
            await asyncio.to_thread(one.wait_ready)
        async with reading(place) as answers:
            return await _driven(fleet, load, answers)
    finally:
        for one in fleet:
            await asyncio.to_thread(one.kill)


async def _driven(fleet: Sequence[Contender], load: Load, answers: Answers) -> dict[str, Any]:
    # The group comes to rest with as many members as there are, and all that is set up once is.
    warm = mixed_backlog(8 * len(fleet), 0)
    await send(fleet[0], warm, answers)
    await answers.wait_for(len(warm), LIMIT_S)
    answers.forget()
    used = sum(usage(one.pid).cpu_s for one in fleet)
    await send(fleet[0], load, answers)
    await answers.wait_for(len(load), LIMIT_S)
    used = sum(usage(one.pid).cpu_s for one in fleet) - used
    seconds = max(answers.at_s.values()) - answers.began_at_s
    return {
        "requests": len(load),
        "seconds": seconds,
        "per_second": len(load) / seconds,
        "steady_per_second": steady_rate(list(answers.at_s.values())),
        "cpu_ms_per_request": used / len(load) * 1000,
    }


def steady_rate(at_s: Sequence[float]) -> float:
    """Answers a second in the middle of a run."""
    first, last = STEADY
    return (last - first) * len(at_s) / (percentile(at_s, last) - percentile(at_s, first))
