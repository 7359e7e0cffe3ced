"""One contender under one load: started, warm, driven, measured."""

from __future__ import annotations

import asyncio
import contextlib
import math
import statistics
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from darkroom.inference.planning.profile import DeviceProfile
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from tests.bench.peers.client import Answers, reading, send
from tests.bench.peers.contenders import Contender, Kind, Place
from tests.bench.peers.loads import Load, alone_s, backlog, uniform
from tests.bench.peers.usage import usage

LIMIT_S = 900.0
"""For one load: many times what the slowest takes."""
JOIN_S = 0.05
"""Rows that begin within it of each other began together: steps take less, and times are rounded."""


@dataclass(slots=True)
class Running:
    """A contender that is ready, and the reader of its answers."""

    contender: Contender
    answers: Answers


@contextlib.asynccontextmanager
async def running(
    environment: Mapping[str, str], folder: Path, kind: Kind, profile: Path | None, **settings: str
) -> AsyncIterator[Running]:
    """Started on topics of its own, and warm: a request has been through all of it. Raises `NotStarted`."""
    place = Place(environment, folder, kind, **settings)
    await prepare(place)
    contender = Contender(kind, place, profile)
    try:
        await asyncio.to_thread(contender.start_until_ready)
        async with reading(place) as answers:
            started = Running(contender, answers)
            await drive(started, backlog(uniform(1, 0)))
            yield started
    finally:
        await asyncio.to_thread(contender.kill)


async def prepare(place: Place) -> None:
    """Its topics, and the bucket that all share."""
    settings = place.settings
    await ensure_topics(settings)
    async with MinioObjects(settings.s3) as objects:
        await objects.ensure_bucket(retention_days=settings.s3.retention_days)


async def drive(started: Running, load: Load) -> None:
    """Send a load and wait for all its answers, which are then the only ones that `answers` knows."""
    answers = started.answers
    answers.forget()
    waiting = await send(started.contender, load, answers)
    await answers.wait_for(len(load), LIMIT_S)
    await asyncio.gather(*waiting)


async def measured(started: Running, load: Load, profile: DeviceProfile | None) -> dict[str, Any]:
    """Figures of a load, as JSON takes them. `profile`: what requests take alone; None where that is not known."""
    contender = started.contender
    before, used = contender.worked(), usage(contender.pid)
    await drive(started, load)
    worked, now = contender.worked().since(before), usage(contender.pid)
    answers = started.answers
    seconds = max(answers.at_s.values()) - answers.began_at_s
    figures: dict[str, Any] = {
        "requests": len(load),
        "seconds": seconds,
        "per_second": len(load) / seconds,
        "busy_ratio": worked.busy_s / seconds,
        "fill": worked.fill,
        "joins": joins(answers.completions.values()),
        "cpu_ms_per_request": (now.cpu_s - used.cpu_s) / len(load) * 1000,
        "memory_mib": now.memory_mib,
        "processes": now.processes,
    }
    if profile is not None:
        alone = [alone_s(one, profile) for one in load.requests]
        delays = [total - one for total, one in zip(answers.latencies_s(load), alone, strict=True)]
        figures["alone_s"] = statistics.mean(alone)
        figures["delay_s"] = {f"p{share}": percentile(delays, share / 100) for share in (50, 95, 99)}
    return figures


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def joins(completions: Iterable[Mapping[str, Any]]) -> int:
    """Requests whose steps began while another's were under way, by the timings in Darkroom's completions.

    A batch of whole requests begins together and has none.
    """
    spans = []
    for one in completions:
        timings = one.get("timings_ms")
        if timings is not None:
            ended = datetime.fromisoformat(one["completed_at"]).timestamp() - timings["decode"] / 1000
            spans.append((ended - timings["denoise"] / 1000, ended))
    spans.sort()
    found, latest_end = 0, -math.inf
    first_begin = -math.inf
    for begin, end in spans:
        if begin < latest_end - JOIN_S and begin > first_begin + JOIN_S:
            found += 1
        if begin >= latest_end:
            first_begin = begin
        latest_end = max(latest_end, end)
    return found
