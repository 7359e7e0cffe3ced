"""What a test does to Kafka with its own hands: commits, deletions, transactions, odd time stamps; and a device that
counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import OffsetAndMetadata

from darkroom.inference.contract import PreparedRows
from darkroom.inference.simulated.device import SimulatedDevice, SimulatedRow
from darkroom.inference.types import RenderJob
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.schemas.settings import Settings

LIMIT_S = 60.0


class CountingDevice(SimulatedDevice):
    """A simulated device that counts, by prompt, how often it prepared, and its steps with how many rows shared each.

    For one engine, whose lanes call it from threads of their own.
    """

    def __init__(self, step_ms: float = 0.0, *, obey_markers: bool = False) -> None:
        super().__init__(step_ms, obey_markers=obey_markers)
        self.prepared: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        """Steps that were done, by prompt."""
        self.tried_rows: list[int] = []
        """The rows of each step that was begun."""
        self.in_order: list[str] = []
        """The prompt of each row's step, in the order in which they were done."""

    def prepare(self, job: RenderJob) -> PreparedRows[SimulatedRow]:
        self.prepared[job.request.prompt] += 1
        return super().prepare(job)

    def step(self, rows: Sequence[SimulatedRow]) -> None:
        self.tried_rows.append(len(rows))
        super().step(rows)
        self.steps.update(row.request.prompt for row in rows)
        self.in_order += [row.request.prompt for row in rows]


@contextlib.asynccontextmanager
async def admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An administrator."""
    client = AIOKafkaAdminClient(**kafka_arguments(settings.kafka))
    await client.start()
    try:
        yield client
    finally:
        await client.close()


async def committed(settings: Settings) -> dict[int, int]:
    """The group's offsets of the request topic, by partition."""
    async with admin(settings) as client:
        found = await client.list_consumer_group_offsets(settings.kafka.group_id)
    return {
        place.partition: one.offset
        for place, one in found.items()
        if place.topic == settings.topics.requests and one.offset >= 0
    }


async def ends(settings: Settings) -> dict[int, int]:
    """The request topic's high watermarks, by partition: what lag is counted against."""
    consumer = AIOKafkaConsumer(**kafka_arguments(settings.kafka))
    await consumer.start()
    try:
        numbers = consumer.partitions_for_topic(settings.topics.requests) or await _partitions(settings)
        places = [TopicPartition(settings.topics.requests, number) for number in numbers]
        return {place.partition: end for place, end in (await consumer.end_offsets(places)).items()}
    finally:
        await consumer.stop()


async def _partitions(settings: Settings) -> set[int]:
    async with admin(settings) as client:
        [described] = await client.describe_topics([settings.topics.requests])
    return {one["partition"] for one in described["partitions"]}


async def until_no_lag(settings: Settings) -> None:
    """Wait until the group's offsets are the ends of all partitions that have records."""
    async with asyncio.timeout(LIMIT_S):
        while True:
            at, wanted = await committed(settings), await ends(settings)
            if all(at.get(number, 0) == end for number, end in wanted.items()):
                return
            await asyncio.sleep(0.2)


async def commit(settings: Settings, offsets: Mapping[int, tuple[int, str]]) -> None:
    """Commit offsets and metadata by partition as a tool would, while no member is in the group."""
    consumer = AIOKafkaConsumer(
        **kafka_arguments(settings.kafka), group_id=settings.kafka.group_id, enable_auto_commit=False
    )
    await consumer.start()
    try:
        places = {TopicPartition(settings.topics.requests, number): at for number, at in offsets.items()}
        consumer.assign(list(places))
        await consumer.commit({place: OffsetAndMetadata(*at) for place, at in places.items()})
    finally:
        await consumer.stop()


async def delete_records(settings: Settings, before: Mapping[int, int]) -> None:
    """Delete what is before these offsets, by partition, as retention does."""
    async with admin(settings) as client:
        await client.delete_records(
            {TopicPartition(settings.topics.requests, number): RecordsToDelete(at) for number, at in before.items()}
        )


@contextlib.asynccontextmanager
async def producer(settings: Settings, **arguments: Any) -> AsyncIterator[AIOKafkaProducer]:
    """A plain producer, or a transactional one."""
    made = AIOKafkaProducer(**kafka_arguments(settings.kafka), **arguments)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
