"""Gives a group without members an offset for every partition, and keeps the ones that it has from expiring.

What scales workers by lag reads the group's offsets. A partition without one has no lag for it, so a fleet of zero
would never be woken; and the offsets of a group that stays at zero expire after the broker's
`offsets.retention.minutes`.

The writer is the workers' own, one transactional producer a partition, and it goes about it as they do: it is started,
which fences every earlier one, and only then the offset is read. So a worker that comes meanwhile fences this writer
before it reads, and what it commits is never taken back.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from consumer.core.partition_key import PartitionKey
from consumer.kafka.ownership import members
from consumer.kafka.writer import PartitionWriter
from consumer.ports import BrokerUnavailable, PublicationUnknown, WriterFenced
from producer.connection import KafkaUnavailable, administering, kafka_arguments
from producer.reader import TopicPartition, TopicReader
from schemas.settings import KafkaSettings, Settings

AT_ONCE: Final = 16
"""Writers at a time: each is two connections."""
COORDINATOR_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Offsets:
    """What became of the partitions of the request topic."""

    committed: tuple[int, ...] = ()
    """Had no offset, and have their beginning now."""
    refreshed: tuple[int, ...] = ()
    """Have the offset and the metadata that they had, written anew."""
    left: tuple[int, ...] = ()
    """A worker came and holds them, or the group has members: workers commit what they hold themselves."""


async def commit_offsets(settings: Settings) -> Offsets:
    """Do it for each partition that there is. Raises `KafkaUnavailable`."""
    async with TopicReader(settings.kafka, [settings.topics.requests]) as reader:
        beginnings = await reader.beginnings()
    places = sorted(beginnings)
    async with administering(settings.kafka, "looking at the group's offsets") as admin:
        if await _has_members(admin, settings.kafka):
            return Offsets(left=tuple(place.partition for place in places))
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(place: TopicPartition) -> str:
            async with gate:
                return await _commit(admin, settings, place, beginnings[place])

        done = await asyncio.gather(*(one(place) for place in places))
    became = list(zip(places, done, strict=True))
    return Offsets(**{what: tuple(place.partition for place, it in became if it == what) for what in set(done)})


async def _has_members(admin: AIOKafkaAdminClient, kafka: KafkaSettings) -> bool:
    """On a broker that no group ever used, the first question makes the topic of offsets, and is answered later."""
    deadline = time.monotonic() + kafka.request_timeout_ms / 1000
    while True:
        try:
            return bool(await members(admin, kafka.group_id))
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
            await asyncio.sleep(COORDINATOR_POLL_S)


async def _commit(admin: AIOKafkaAdminClient, settings: Settings, place: TopicPartition, beginning: int) -> str:
    """The name of the list in `Offsets` that the partition belongs to."""
    kafka = settings.kafka
    writer = PartitionWriter(
        PartitionKey(*place),
        kafka.group_id,
        kafka_arguments(kafka),
        timeout_s=kafka.request_timeout_ms / 1000,
        transaction_timeout_ms=kafka.transaction_timeout_ms,
    )
    try:
        await writer.start()
        committed = (await admin.list_consumer_group_offsets(kafka.group_id, partitions=[place])).get(place)
        if fresh := committed is None or committed.offset < 0:
            committed = OffsetAndMetadata(beginning, "")
        await writer.publish([], committed.offset, committed.metadata)
    except WriterFenced:
        return "left"
    except (BrokerUnavailable, PublicationUnknown) as error:
        raise KafkaUnavailable(f"{error} Run this again once Kafka is well.") from error
    finally:
        await writer.stop()
    return "committed" if fresh else "refreshed"
