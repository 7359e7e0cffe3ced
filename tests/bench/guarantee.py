"""What the guarantee costs: transactions against plain commits, and a third worker's joining against a step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from consumer.core.partition_key import PartitionKey
from consumer.kafka.broker import KafkaBroker
from consumer.ports import Opened, OutgoingRecord
from consumer.worker import Worker
from inference.contract import EngineEvent, StepDone
from inference.engine import LaneEngine
from inference.simulated import SimulatedDevice
from producer.connection import kafka_arguments
from producer.requests.client import Client
from producer.results.minio_objects import MinioObjects
from producer.topics import ensure_topics
from schemas.settings import Settings
from tests.bench.throughput import ROWS_MAX, STEP_MS, mixed_load, worker_under_backlog
from tests.integration.fleet import Fleet

JOIN_AFTER_S = 3.0
WATCH_S = 6.0


class AtLeastOnceBroker(KafkaBroker):
    """The same group member without transactions: one plain producer, and plain commits. For comparison only."""

    def __init__(self, settings: Settings, *, topic: str, client_id: str) -> None:
        super().__init__(settings, topic=topic, client_id=client_id)
        self._producer = AIOKafkaProducer(**kafka_arguments(settings.kafka), acks="all")
        self._started = False

    async def open(self, partition: PartitionKey, *, prove_ownership: bool) -> Opened:
        if not self._started:
            self._started = True
            await self._producer.start()
        return await self._committed(partition)

    async def publish(
        self, partition: PartitionKey, records: Sequence[OutgoingRecord], offset: int, metadata: str
    ) -> None:
        sent = [
            await self._producer.send(one.topic, value=one.value, key=one.key, headers=list(one.headers))
            for one in records
        ]
        await asyncio.gather(*sent)
        await self._consumer.commit({TopicPartition(*partition): OffsetAndMetadata(offset, metadata)})

    async def leave(self) -> None:
        await self._producer.stop()
        await super().leave()


async def against_plain_commits(
    environment: Mapping[str, str], count: int, seed: int, step_ms: float
) -> dict[str, float]:
    """Throughput with the guarantee over throughput without, each under the same backlog on topics of its own."""
    seconds = {}
    for name in ("plain", "exactly_once"):
        settings = Fleet(environment, Path(), DARKROOM_BATCH__MAX_ROWS=str(ROWS_MAX)).settings
        make = AtLeastOnceBroker if name == "plain" else KafkaBroker
        result = await worker_under_backlog(
            settings, mixed_load(count, seed), step_ms, MinioObjects(settings.s3), make_broker=make
        )
        seconds[name] = result["seconds"]
    return {
        "requests": count,
        "step_ms": step_ms,
        "plain_seconds": seconds["plain"],
        "exactly_once_seconds": seconds["exactly_once"],
        "ratio": seconds["plain"] / seconds["exactly_once"],
    }


async def a_third_joins(environment: Mapping[str, str], count: int, seed: int) -> dict[str, float]:
    """The longest time that two busy workers' devices stood still, before a third joins and while it does."""
    settings = Fleet(environment, Path(), DARKROOM_BATCH__MAX_ROWS=str(ROWS_MAX)).settings
    await ensure_topics(settings)
    async with Client(settings, follow=False) as client:
        await client.send(mixed_load(count, seed))
    objects = MinioObjects(settings.s3)
    await objects.ensure_bucket(retention_days=settings.s3.retention_days)
    idle = _Idle()
    running: list[asyncio.Task[bool]] = []
    workers: list[Worker] = []
    try:
        for number in range(3):
            if number == 2:
                await idle.all_busy(2)
                await asyncio.sleep(JOIN_AFTER_S)
                idle.turn()
            worker = Worker(settings, LaneEngine(SimulatedDevice(STEP_MS), rows_max=ROWS_MAX), objects)
            if number < 2:
                worker.driver.rendering.observers.append(idle.watch(number))
            workers.append(worker)
            running.append(asyncio.create_task(worker.run()))
        await asyncio.sleep(WATCH_S)
        before_s, during_s = idle.longest()
        for worker in workers:
            worker.drain()
        await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        objects.close()
    return {"step_ms": STEP_MS, "before_ms": before_s * 1000, "during_ms": during_s * 1000}


class _Idle:
    """The gaps between steps. Events reach it by the event loop: a gap may look longer than it was, never shorter."""

    def __init__(self) -> None:
        self._last: dict[int, float] = {}
        self._gaps: list[list[float]] = [[0.0], [0.0]]
        self._period = 0

    def watch(self, number: int) -> object:
        def observe(event: EngineEvent) -> None:
            if isinstance(event, StepDone):
                now = time.perf_counter()
                if number in self._last:
                    self._gaps[self._period].append(max(0.0, now - self._last[number] - event.seconds))
                self._last[number] = now

        return observe

    async def all_busy(self, workers: int) -> None:
        async with asyncio.timeout(60):
            while len(self._last) < workers:
                await asyncio.sleep(0.05)

    def turn(self) -> None:
        self._period = 1

    def longest(self) -> tuple[float, float]:
        return max(self._gaps[0]), max(self._gaps[1])
