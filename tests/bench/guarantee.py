"""What the guarantee costs: transactions against plain at-least-once commits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.broker import KafkaBroker
from darkroom.consumer.worker.ports import Opened, OutgoingRecord
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.settings import Settings
from tests.bench.throughput import ROWS_MAX, mixed_load, worker_under_backlog
from tests.integration.fleet import Fleet


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
