"""Everybody is killed with SIGKILL in the middle of a backlog and started again: what was lost, what came twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from darkroom.consumer.audit.audit import audit
from darkroom.producer.store.s3_objects import MinioObjects
from tests.bench.peers.client import reading, send
from tests.bench.peers.contenders import DARKROOM, KINDS, Contender, Kind, NotStarted, Place, installed
from tests.bench.peers.kept import Kept
from tests.bench.peers.loads import alone_s, backlog, curve, curve_file, mixed
from tests.bench.peers.measuring import LIMIT_S, prepare

REQUESTS = 60
KILLED_AT = (0.2, 0.5)
"""Shares that were answered when the process is killed: twice in a run."""
QUIET_S = 45.0
"""Nothing for so long, and the rest is taken for lost: three times the longest session timeout."""


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of a load's requests."""

    requests: int
    lost: int
    """Requests without an answer."""
    repeated: int
    """Answers beyond each request's first."""


def fates(sent: Iterable[str], answers: Mapping[str, int]) -> Fates:
    """Counted by request id: `answers` has how many came for each."""
    ids = set(sent)
    got = Counter({one: count for one, count in answers.items() if one in ids})
    return Fates(len(ids), sum(got[one] == 0 for one in ids), sum(count - 1 for count in got.values() if count > 1))


async def kills(
    kept: Kept, environment: Mapping[str, str], folder: Path, seed: int, *, quick: bool, say: Callable[[str], None]
) -> None:
    """Everybody at once: each has topics of its own."""
    count = REQUESTS // (5 if quick else 1)
    kinds = [kind for kind in KINDS if installed(kind)]
    kept.keep(list(KILLED_AT), "killed_at")

    async def run(kind: Kind) -> None:
        try:
            kept.keep(await _kill(environment, folder, kind, seed, count), "contenders", kind.name)
        except NotStarted as error:
            say(f"left out, {str(error)[:200]}")

    await asyncio.gather(*map(run, kinds))


async def _kill(environment: Mapping[str, str], folder: Path, kind: Kind, seed: int, count: int) -> dict[str, Any]:
    place = Place(environment, folder, kind)
    await prepare(place)
    contender = Contender(kind, place, curve_file("tiny"))
    load = backlog(mixed(count, seed))
    try:
        await asyncio.to_thread(contender.start_until_ready)
        async with reading(place) as answers:
            waiting = await send(contender, load, answers)
            for share in KILLED_AT:
                if kind.over_http:
                    # Its event loop is held by the pipeline, so that answers come when all pictures are painted.
                    await asyncio.sleep(KILLED_AT[0] * sum(alone_s(one, curve("tiny")) for one in load.requests))
                else:
                    await answers.wait_for(int(count * share), LIMIT_S, QUIET_S)
                await asyncio.to_thread(contender.kill)
                await asyncio.to_thread(contender.start_until_ready)
            if not kind.over_http:
                await answers.wait_for(count, LIMIT_S, QUIET_S)
                # A repetition comes after all were answered: what was read before the kill is read again.
                await asyncio.sleep(QUIET_S / 3)
            await asyncio.gather(*waiting)
            figures: dict[str, Any] = asdict(fates([one.request_id for one in load.requests], answers.counts))
    finally:
        await asyncio.to_thread(contender.kill)
    if kind is DARKROOM:
        async with MinioObjects(place.settings.s3) as objects:
            found = await audit(place.settings, objects)
        figures["audit"] = {"missing": len(found.missing), "duplicated": len(found.duplicated)}
    return figures
