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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from aiokafka.structs import OffsetAndMetadata

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.writer import PartitionWriter
from darkroom.consumer.worker.ports import BrokerUnavailable, OutgoingRecord, PublicationUnknown, WriterFenced
from darkroom.producer.kafka.broker_client import CLUSTER_S_MAX
from darkroom.producer.kafka.connection import KafkaUnavailable, administering, kafka_arguments
from darkroom.producer.kafka.groups import Questions, committed_offsets, describe_group
from darkroom.producer.kafka.reader import TopicPartition, TopicReader
from darkroom.schemas.settings import KafkaSettings, Settings

AT_ONCE: Final = 16
"""Writers at a time: each is two connections."""


@dataclass(frozen=True, slots=True)
class Offsets:
    """Partitions of the request topic, by what was done with each."""

    committed: tuple[int, ...] = ()
    """Had no offset, and have their beginning now."""
    refreshed: tuple[int, ...] = ()
    """Have the offset and the metadata that they had, written anew."""
    left: tuple[int, ...] = ()
    """A worker came and holds them, or the group has members: workers commit what they hold themselves."""


class OffsetWriter(Protocol):
    """A committer of one partition's offset: `PartitionWriter`, or a simulated one."""

    async def start(self) -> None:
        """Fence every earlier writer of the partition. Raises `BrokerUnavailable`."""

    async def publish(self, records: Sequence[OutgoingRecord], offset: int, metadata: str) -> None:
        """Commit. Raises `WriterFenced`, `PublicationUnknown` or `PublicationRefused`."""

    async def stop(self) -> None:
        """Let go of the partition. Never raises."""


async def commit_offsets(settings: Settings) -> Offsets:
    """Commit an offset for each partition that has none and refresh the others. Never lower a committed offset.

    Raises `KafkaUnavailable`, also where the coordinator's answers contradict each other: then nothing is written for
    that partition.
    """
    kafka = settings.kafka
    async with TopicReader(kafka, [settings.topics.requests]) as reader:
        beginnings = await reader.beginnings()

    def writer(place: TopicPartition) -> PartitionWriter:
        return PartitionWriter(
            PartitionKey(*place),
            kafka,
            kafka_arguments(kafka),
            timeout_s=_patience_s(kafka),
            transaction_timeout_ms=kafka.transaction_timeout_ms,
        )

    async with administering(kafka, "looking at the group's offsets") as admin:
        return await settle_offsets(admin, kafka, beginnings, writer)


async def settle_offsets(
    coordinator: Questions,
    kafka: KafkaSettings,
    beginnings: Mapping[TopicPartition, int],
    make_writer: Callable[[TopicPartition], OffsetWriter],
) -> Offsets:
    """As `commit_offsets`, for partitions whose beginnings are known. Raises `KafkaError` besides."""
    places = sorted(beginnings)
    answer_s = _patience_s(kafka)
    if (await describe_group(coordinator, kafka.group_id, timeout_s=answer_s)).members:
        return Offsets(left=tuple(place.partition for place in places))
    before = await committed_offsets(coordinator, kafka.group_id, places, timeout_s=answer_s)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(place: TopicPartition) -> str:
        async with gate:
            return await _commit(
                coordinator, kafka, place, make_writer(place), beginning=beginnings[place], before=before[place]
            )

    done = await asyncio.gather(*(one(place) for place in places))
    became = list(zip(places, done, strict=True))
    return Offsets(**{what: tuple(place.partition for place, it in became if it == what) for what in set(done)})


async def _commit(
    coordinator: Questions,
    kafka: KafkaSettings,
    place: TopicPartition,
    writer: OffsetWriter,
    *,
    beginning: int,
    before: OffsetAndMetadata | None,
) -> str:
    """Write one partition's offset, and return the name of the list in `Offsets` that the partition belongs to.

    `before` is what the group had committed before the writer started. A group's offset never falls while it has no
    members, so an offset that is lower afterwards, or gone, is an answer not to be acted on.
    """
    try:
        await writer.start()
        committed = await _committed_now(coordinator, kafka, place)
        if before is not None and (committed is None or committed.offset < before.offset):
            raise KafkaUnavailable(
                f"Kafka at {kafka.bootstrap_servers} contradicts itself about the group {kafka.group_id}: partition "
                f"{place.partition} of {place.topic} was committed at {before.offset}, then "
                f"{'nowhere' if committed is None else f'at {committed.offset}'}. Nothing was written for it. Run this "
                "again once the brokers are well; a reset of the offsets meanwhile looks the same."
            )
        fresh = committed is None
        target = OffsetAndMetadata(beginning, "") if committed is None else committed
        await writer.publish([], target.offset, target.metadata)
    except WriterFenced:
        return "left"
    except (BrokerUnavailable, PublicationUnknown) as error:
        raise KafkaUnavailable(f"{error} Run this again once Kafka is well.") from error
    finally:
        await writer.stop()
    return "committed" if fresh else "refreshed"


async def _committed_now(
    coordinator: Questions, kafka: KafkaSettings, place: TopicPartition
) -> OffsetAndMetadata | None:
    """Read the committed offset, twice where the first answer is "none": the coordinator is looked up for each."""
    for _ in range(2):
        found = await committed_offsets(coordinator, kafka.group_id, [place], timeout_s=_patience_s(kafka))
        if (committed := found[place]) is not None:
            return committed
    return None


def _patience_s(kafka: KafkaSettings) -> float:
    """Return how long one partition's coordinators may take: one broker may have died just now."""
    return max(kafka.request_timeout_ms / 1000, CLUSTER_S_MAX)
