"""The gateway: accepted jobs a second beside bare puts and bare produces, latency at half of that, and idle streams."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from statistics import quantiles
from typing import Any

import psutil
from aiokafka import AIOKafkaProducer

from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.settings import Settings
from tests.integration.fleet import Fleet
from tests.integration.gateways import GatewayProcess

CALLERS = 32
"""Connections that ask one after the other: more only wait longer in the gateway's own queue."""
STREAMS = 1000
UNBOUNDED = {
    "DARKROOM_ACCESS__CALLS_PER_MINUTE_MAX": "1000000",
    "DARKROOM_ACCESS__CALLS_BURST_MAX": "1000000",
    "DARKROOM_ACCESS__JOBS_UNFINISHED_MAX": "1000000",
}
"""One tenant's quotas are not what is measured."""
POSE = {"people": [[[0.5, 0.02 + 0.05 * number] for number in range(18)]]}


async def gateway(environment: Mapping[str, str], folder: Path, jobs: int, streams: int = STREAMS) -> dict[str, Any]:
    """`jobs` jobs with a keypoint pose each: as fast as they are taken, and at half of that rate."""
    fleet = Fleet(environment, folder, DARKROOM_LOG__LEVEL="info", **UNBOUNDED)
    await fleet.make_topics()
    process = GatewayProcess(fleet.environment, folder, f"gateway-{fleet.serial}")
    try:
        await asyncio.to_thread(process.wait_ready)
        claims, events = await _bare_puts(fleet.settings, jobs), await _bare_produces(fleet.settings, jobs)
        own = psutil.Process(process.process.pid)
        async with _callers(process.url) as callers:
            await _fast(callers, jobs // 10)  # first calls load what later ones have
            before = own.cpu_times()
            per_second = await _fast(callers, jobs)
            after = own.cpu_times()
            latencies = await _paced(callers, jobs, per_second / 2)
            memory = await _streams(process.url, callers, own, streams)
        cuts = quantiles(latencies, n=100)
        return {
            "jobs": jobs,
            "accepted_per_second": per_second,
            "bare_puts_per_second": claims,
            "bare_produces_per_second": events,
            "cpu_ms_per_job": 1000 * (after.user + after.system - before.user - before.system) / jobs,
            "half_rate_p50_ms": 1000 * cuts[49],
            "half_rate_p99_ms": 1000 * cuts[98],
            **memory,
        }
    finally:
        process.kill()


async def _bare_puts(settings: Settings, count: int) -> float:
    serial = uuid.uuid4().hex[:8]
    with contextlib.closing(MinioObjects(settings.s3)) as objects:

        async def put(number: int) -> None:
            await objects.put_if_absent(f"bench/{serial}/{number}/request.json", b"x" * 1500, "application/json")

        return await _rate(put, count)


async def _bare_produces(settings: Settings, count: int) -> float:
    producer = AIOKafkaProducer(**kafka_arguments(settings.kafka), acks="all", enable_idempotence=True)
    await producer.start()

    async def send(number: int) -> None:
        await producer.send_and_wait(settings.topics.requests, b"x" * 1000, key=str(number).encode())

    try:
        return await _rate(send, count)
    finally:
        await producer.stop()


async def _rate(work: Callable[[int], Awaitable[None]], count: int) -> float:
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await work(number)

    started = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(CALLERS)))
    return count / (time.perf_counter() - started)


class _Caller:
    """One kept connection that posts: written by hand, so that the load costs less than what it loads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def post(self, **fields: str) -> None:
        body = json.dumps({"prompt": "a dancer on a stage, studio light", "pose": POSE, **fields}).encode()
        self._writer.write(
            b"POST /v1/generations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 202"), head
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await self._reader.readexactly(int(length.partition(b":")[2]))

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def _callers(url: str) -> Any:
    callers = [_Caller(*await _connection(url)) for _ in range(CALLERS)]
    try:
        yield callers
    finally:
        for caller in callers:
            caller.close()


async def _connection(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = url.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port), limit=16_384)


async def _fast(callers: list[_Caller], jobs: int) -> float:
    numbers = iter(range(jobs))

    async def ask(caller: _Caller) -> None:
        for _ in numbers:
            await caller.post()

    started = time.perf_counter()
    await asyncio.gather(*(ask(caller) for caller in callers))
    return jobs / (time.perf_counter() - started)


async def _paced(callers: list[_Caller], jobs: int, per_second: float) -> list[float]:
    """Seconds from when each job was due, so that one that holds up others is not forgiven."""
    free: asyncio.Queue[_Caller] = asyncio.Queue()
    for caller in callers:
        free.put_nowait(caller)
    latencies: list[float] = []

    async def ask(due: float) -> None:
        caller = await free.get()
        await caller.post()
        free.put_nowait(caller)
        latencies.append(time.perf_counter() - due)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(jobs):
            due = started + number / per_second
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(ask(due))
    return latencies


async def _streams(url: str, callers: list[_Caller], own: psutil.Process, count: int) -> dict[str, float]:
    """Resident memory before and with so many event streams open, each of a job of its own."""
    serial = uuid.uuid4().hex[:8]
    for number in range(count):
        await callers[number % CALLERS].post(request_id=f"{serial}-{number}")
    before = own.memory_info().rss
    open_ = []
    for number in range(count):
        one = await _connection(url)
        one[1].write(
            b"GET /v1/generations/%s-%d/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % (serial.encode(), number)
        )
        open_.append(one)
    for one in open_:
        await one[0].readuntil(b"event: status\n")
    with_streams = own.memory_info().rss
    for _, writer in open_:
        writer.close()
    return {
        "streams": count,
        "streams_mib": (with_streams - before) / 2**20,
        "process_mib": with_streams / 2**20,
    }


def section(figures: Mapping[str, Any]) -> list[str]:
    """Its part of the report."""
    rows = [
        ("accepted jobs/s, one process, keypoint pose", f"{figures['accepted_per_second']:.0f}", "at least 200"),
        ("the same over bare conditional puts", _share(figures, "bare_puts_per_second"), ""),
        ("the same over bare produces", _share(figures, "bare_produces_per_second"), ""),
        ("latency at half of that rate, 50th; 99th percentile, ms", _latencies(figures), "99th below 250"),
        ("CPU of the gateway's process, ms a job", f"{figures['cpu_ms_per_job']:.2f}", ""),
        (
            f"{figures['streams']} event streams: MiB that they take; of the whole process",
            f"{figures['streams_mib']:.0f}; {figures['process_mib']:.0f}",
            "below 200",
        ),
    ]
    return [
        "## The gateway",
        "",
        f"{figures['jobs']} jobs over {CALLERS} connections; Kafka, the store and the callers on the same machine.",
        "",
        "| what | measured | goal |",
        "|---|---|---|",
        *(f"| {what} | {value} | {goal} |" for what, value, goal in rows),
        "",
    ]


def _share(figures: Mapping[str, Any], name: str) -> str:
    return f"{figures['accepted_per_second'] / figures[name]:.2f} of {figures[name]:.0f}/s"


def _latencies(figures: Mapping[str, Any]) -> str:
    return f"{figures['half_rate_p50_ms']:.0f}; {figures['half_rate_p99_ms']:.0f}"
