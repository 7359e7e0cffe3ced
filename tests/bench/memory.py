"""Resident memory of a worker process: it must not grow with the requests it has served."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import psutil

from darkroom.producer.client.client import Client
from tests.bench.throughput import mixed_load
from tests.integration.fleet import Fleet, until

PORTIONS = 5


async def resident_memory(environment: Mapping[str, str], folder: Path, portion: int) -> dict[str, object]:
    """MiB after each of five portions of requests on the simulated device, and the last over the first."""
    fleet = Fleet(environment, folder, DARKROOM_LOG__LEVEL="info")
    await fleet.make_topics()
    worker = fleet.start("--simulated-device", "0")
    try:
        await asyncio.to_thread(worker.wait_ready)
        measured = []
        async with Client(fleet.settings) as client:
            for number in range(PORTIONS):
                await client.wait(await client.send(mixed_load(portion, number)), timeout_s=300)
                await until(lambda: len(worker.events("published")) >= portion, 60, "the log")
                measured.append(psutil.Process(worker.process.pid).memory_info().rss / 2**20)
        return {"portion": portion, "mib": measured, "ratio": measured[-1] / measured[0]}
    finally:
        fleet.stop()
