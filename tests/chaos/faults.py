"""Does the faults of a schedule to a running stack and its workers, ends each, and tells the book when it ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import psutil
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.errors import InvalidPartitionsError, KafkaError

from darkroom.consumer.stack import Stack
from darkroom.producer.kafka.connection import KafkaUnavailable, kafka_arguments
from darkroom.producer.kafka.reader import partitions_of
from darkroom.schemas.settings import Settings
from tests.chaos.crew import Crew, Place
from tests.chaos.proxy import Link, Proxy
from tests.chaos.schedule import Fault, Kind
from tests.chaos.watch import Book, Recovery

SLOW = Link(latency_s=0.15, bytes_per_s=200_000)
RESET_EVERY_S = 0.7
PARTITIONS_ADDED = 2
PARTITIONS_MAX = 24
DRAIN_S_MAX = 60.0
READY_S_MAX = 120.0
KAFKA_S_MAX = 120.0
POLL_S = 0.1

AnswerT = TypeVar("AnswerT")


class Inflictor:
    """Performs faults. Several at once, if they come so."""

    def __init__(
        self, stack: Stack, settings: Settings, crew: Crew, book: Book, on_growth: Callable[[], Awaitable[None]]
    ) -> None:
        """`on_growth` is called when partitions were added."""
        self._stack = stack
        self._settings = settings
        self._crew = crew
        self._book = book
        self._on_growth = on_growth
        self.counts: Counter[Kind] = Counter()

    async def inflict(self, fault: Fault) -> Recovery:
        """Do it and end it. What it held up is in the recovery."""
        self.counts[fault.kind] += 1
        partitions = await self._perform(fault)
        return self._book.fault_ended(fault.kind, time.monotonic(), partitions)

    async def _perform(self, fault: Fault) -> set[int] | None:
        """Do a fault. Returns the partitions that are to recover where these are not all with work waiting."""
        place = self._crew.places[fault.victim % len(self._crew.places)]
        match fault.kind:
            case Kind.KILL_WORKER:
                place.signal(signal.SIGKILL)
            case Kind.FREEZE_WORKER:
                await self._freeze_worker(place, fault.length_s)
            case Kind.DRAIN_WORKER:
                await self._drain(place)
            case Kind.ROLLING_RESTART:
                for each in self._crew.places:
                    await self._drain(each)
            case Kind.ADD_PARTITIONS:
                return await self._add_partitions()
            case _:
                await self._perform_on_servers(fault, place)
        return None

    async def _perform_on_servers(self, fault: Fault, place: Place) -> None:
        proxies = self._proxies(fault.kind, place)
        match fault.kind:
            case Kind.KILL_KAFKA:
                await asyncio.to_thread(self._stack.kill_kafka)
                await asyncio.sleep(fault.length_s)
                await asyncio.to_thread(self._stack.start_kafka)
            case Kind.KILL_S3:
                await asyncio.to_thread(self._stack.kill_s3)
                await asyncio.sleep(fault.length_s)
                await asyncio.to_thread(self._stack.start_s3)
            case Kind.FREEZE_KAFKA | Kind.FREEZE_S3:
                await self._freeze_server("kafka" if fault.kind is Kind.FREEZE_KAFKA else "s3", fault.length_s)
            case Kind.SLOW_KAFKA | Kind.SLOW_S3:
                await _linked(proxies, SLOW, fault.length_s)
            case Kind.CUT_OFF_WORKER | Kind.CUT_OFF_S3:
                await _linked(proxies, Link(is_dead=True), fault.length_s)
            case Kind.CUT_KAFKA | Kind.CUT_S3:
                await _reset(proxies, fault.length_s)

    def _proxies(self, kind: Kind, place: Place) -> list[Proxy]:
        match kind:
            case Kind.SLOW_KAFKA | Kind.CUT_KAFKA:
                return [each.kafka for each in self._crew.places]
            case Kind.SLOW_S3 | Kind.CUT_S3:
                return [each.s3 for each in self._crew.places]
            case Kind.CUT_OFF_WORKER:
                return [place.kafka]
            case _:
                return [place.s3]

    async def _freeze_worker(self, place: Place, length_s: float) -> None:
        place.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(length_s)
        finally:
            place.signal(signal.SIGCONT)

    async def _drain(self, place: Place) -> None:
        """SIGTERM, and wait until its successor takes records, or until it is clear that it will not soon."""
        worker = place.worker
        place.signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S_MAX):
                await self._crew.ended(place, worker)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S_MAX):
                await self._crew.ready(place)

    async def _freeze_server(self, name: str, length_s: float) -> None:
        status = await asyncio.to_thread(self._stack.status)
        pid = status.servers[name].pid
        if pid is None:
            return  # another fault holds it down
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(length_s)
            finally:
                os.kill(pid, signal.SIGCONT)

    async def _add_partitions(self) -> set[int]:
        """The partitions that are new. Kafka may be away meanwhile: another fault's doing."""
        before = await self._patiently(self._partitions)
        if len(before) + PARTITIONS_ADDED > PARTITIONS_MAX:
            return set()
        await self._patiently(functools.partial(self._grow, len(before) + PARTITIONS_ADDED))
        async with asyncio.timeout(KAFKA_S_MAX):
            while len(after := await self._patiently(self._partitions)) == len(before):
                await asyncio.sleep(POLL_S)
        await self._on_growth()
        return after - before

    async def _partitions(self) -> set[int]:
        return {one.partition for one in await partitions_of(self._settings.kafka, [self._settings.topics.requests])}

    async def _grow(self, total: int) -> None:
        admin = AIOKafkaAdminClient(**kafka_arguments(self._settings.kafka))
        try:
            await admin.start()
            with contextlib.suppress(InvalidPartitionsError):  # done by a try whose answer was lost
                await admin.create_partitions({self._settings.topics.requests: NewPartitions(total)})
        finally:
            await admin.close()

    async def _patiently(self, ask: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        async with asyncio.timeout(KAFKA_S_MAX):
            while True:
                with contextlib.suppress(KafkaError, KafkaUnavailable, OSError):
                    return await ask()
                await asyncio.sleep(POLL_S)


def thaw(stack: Stack) -> None:
    """Let servers go on that are frozen, whatever interrupted their fault."""
    for server in stack.status().servers.values():
        if server.pid is not None:
            with contextlib.suppress(psutil.Error):
                psutil.Process(server.pid).resume()


async def _linked(proxies: list[Proxy], link: Link, length_s: float) -> None:
    for proxy in proxies:
        proxy.link = link
    try:
        await asyncio.sleep(length_s)
    finally:
        for proxy in proxies:
            proxy.link = Link()


async def _reset(proxies: list[Proxy], length_s: float) -> None:
    until = time.monotonic() + length_s
    while True:
        for proxy in proxies:
            proxy.cut()
        if time.monotonic() >= until:
            return
        await asyncio.sleep(RESET_EVERY_S)
