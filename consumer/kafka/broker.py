"""The consumer group member: polls, pauses, seeks, and opens partitions in the order that exactly-once needs.

What aiokafka makes necessary, each seen to go wrong otherwise:

- The rebalance listener only pauses and takes note. While a slow listener runs, `getmany` delivers from the
  old position and no heartbeat is sent.
- Every rebalance is eager: pause flags vanish and positions go back to the committed offset. So all partitions
  are paused in the callback, and delivered again only from where `resume` seeks to.
- `getmany` is never cancelled, only given a timeout: cancelling it inside a fetch breaks the poll watchdog.
- `committed()` drops the metadata, so offsets are read with the admin client.
- The sticky assignor keeps its state on the class, so each member has a class of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError

from consumer.core.partition_key import PartitionKey
from consumer.kafka.ownership import members, owns
from consumer.kafka.writer import PartitionWriter
from consumer.ports import BrokerUnavailable, Delivery, Noted, Opened, OutgoingRecord, PublicationUnknown, Record
from producer.connection import kafka_arguments
from producer.consuming import RecordConsumer
from producer.record_batches import UnreadableBatch
from schemas.settings import Settings

log = structlog.get_logger(__name__)

OWNERSHIP_POLL_S = 0.5
"""How often the group is asked whose a partition is, after a fence."""
POSITIONS_S_MAX = 0.2
"""How long the positions may take to be known while a rebalance comes between."""
LEAVE_S_MAX = 10.0
"""How long leaving the group may take; after that the group finds out by the session's time-out."""


class KafkaBroker:
    """`consumer.ports.Broker` on aiokafka."""

    def __init__(self, settings: Settings, *, topic: str, client_id: str) -> None:
        self._kafka = settings.kafka
        self._topic = topic
        self._client_id = client_id
        self._arguments = kafka_arguments(settings.kafka) | {"client_id": client_id}
        self._record_bytes_max = settings.topics.max_message_bytes
        self._consumer = RecordConsumer(
            **self._arguments,
            group_id=settings.kafka.group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            partition_assignment_strategy=[type("MemberAssignor", (StickyPartitionAssignor,), {})],
            session_timeout_ms=settings.kafka.session_timeout_ms,
            heartbeat_interval_ms=settings.kafka.heartbeat_interval_ms,
            max_poll_interval_ms=settings.kafka.max_poll_interval_ms,
            rebalance_timeout_ms=settings.kafka.rebalance_timeout_ms,
            max_poll_records=settings.kafka.max_poll_records,
            fetch_max_bytes=settings.kafka.fetch_max_bytes,
            metadata_max_age_ms=settings.kafka.metadata_max_age_ms,
        )
        self._admin = AIOKafkaAdminClient(**self._arguments)
        self._writers: dict[PartitionKey, PartitionWriter] = {}

    async def join(self, on_revoked: Noted, on_assigned: Noted) -> None:
        """As the protocol says."""
        listener = _Listener(self._consumer, on_revoked, on_assigned)
        self._consumer.subscribe([self._topic], listener=listener)
        try:
            await self._admin.start()
            await self._consumer.start()
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(
                f"Kafka at {self._kafka.bootstrap_servers} was not reached ({error!r}). Check the address and that it "
                "runs."
            ) from error

    async def poll(self, timeout_s: float) -> Sequence[Delivery]:
        """As the protocol says."""
        try:
            batches = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000))
            delivering = self._consumer.assignment() - self._consumer.paused()
            async with asyncio.timeout(POSITIONS_S_MAX):  # known at once, since a resumed partition was sought
                return [await self._delivery(one, batches.get(one, ())) for one in sorted(delivering)]
        except (IllegalStateError, TimeoutError):
            return []  # a rebalance came between: what was fetched is delivered again
        except KafkaError as error:
            raise BrokerUnavailable(f"Polling Kafka failed: {type(error).__name__}: {error}.") from error

    async def _delivery(self, partition: TopicPartition, batch: Sequence[Any]) -> Delivery:
        records = tuple(
            Record(one.offset, one.key, one.value, one.headers, one.timestamp, _flaw(partition, one.value))
            for one in batch
        )
        position = await self._consumer.position(partition)
        end = self._consumer.last_stable_offset(partition)
        return Delivery(PartitionKey(*partition), records, position, end)

    def pause(self, partition: PartitionKey) -> None:
        """As the protocol says."""
        with contextlib.suppress(IllegalStateError):
            self._consumer.pause(TopicPartition(*partition))

    def resume(self, partition: PartitionKey, seek_to: int | None = None) -> None:
        """As the protocol says."""
        with contextlib.suppress(IllegalStateError):
            if seek_to is not None:
                self._consumer.seek(TopicPartition(*partition), seek_to)
            self._consumer.resume(TopicPartition(*partition))

    async def open(self, partition: PartitionKey, *, prove_ownership: bool) -> Opened:
        """As the protocol says."""
        await self.close(partition)
        try:
            while prove_ownership and not await owns(self._admin, self._kafka.group_id, self._client_id, partition):
                await asyncio.sleep(OWNERSHIP_POLL_S)
            writer = self._writer(partition)
            await writer.start()
            self._writers[partition] = writer
            return await self._committed(partition)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"Partition {partition.partition} could not be opened: {error!r}.") from error

    def _writer(self, partition: PartitionKey) -> PartitionWriter:
        return PartitionWriter(
            partition,
            self._kafka.group_id,
            self._arguments,
            timeout_s=self._kafka.request_timeout_ms / 1000,
            transaction_timeout_ms=self._kafka.transaction_timeout_ms,
            max_request_size=self._record_bytes_max,
        )

    async def _committed(self, partition: PartitionKey) -> Opened:
        """Read the offset and its metadata, and hold them against what the topic has."""
        place = TopicPartition(*partition)
        committed = (await self._admin.list_consumer_group_offsets(self._kafka.group_id, partitions=[place])).get(place)
        begin = (await self._consumer.beginning_offsets([place]))[place]
        end = (await self._consumer.end_offsets([place]))[place]
        if committed is None or committed.offset < 0:
            return Opened(begin, "", fresh=True)
        if begin <= committed.offset <= end:
            return Opened(committed.offset, committed.metadata, fresh=False)
        log.warning(
            "committed offset is outside of the partition; starting at its beginning",
            partition=partition.partition,
            committed=committed.offset,
            begin=begin,
            end=end,
        )
        return Opened(begin, "", fresh=True)

    async def members(self) -> frozenset[str]:
        """As the protocol says."""
        try:
            return await members(self._admin, self._kafka.group_id)
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"The group's members could not be asked for: {error!r}.") from error

    async def publish(
        self, partition: PartitionKey, records: Sequence[OutgoingRecord], offset: int, metadata: str
    ) -> None:
        """As the protocol says."""
        writer = self._writers.get(partition)
        if writer is None:
            raise PublicationUnknown(f"Partition {partition.partition} has no writer.")
        await writer.publish(records, offset, metadata)

    async def close(self, partition: PartitionKey) -> None:
        """As the protocol says."""
        writer = self._writers.pop(partition, None)
        if writer is not None:
            await writer.stop()

    async def leave(self) -> None:
        """As the protocol says."""
        await asyncio.gather(*(self.close(partition) for partition in list(self._writers)))
        for part in (self._consumer.stop(), self._admin.close()):
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(part, LEAVE_S_MAX)


def _flaw(partition: TopicPartition, value: bytes | None) -> str | None:
    """Say why a value is no record's, where it is a whole batch that cannot be read."""
    if not isinstance(value, UnreadableBatch):
        return None
    return (
        f"offsets {value.first_offset} to {value.last_offset} of partition {partition.partition} cannot be read: "
        f"{value.reason}"
    )


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Pauses and takes note; its exceptions would be swallowed, and its slowness would cost the membership."""

    def __init__(self, consumer: RecordConsumer, on_revoked: Noted, on_assigned: Noted) -> None:
        self._consumer = consumer
        self._on_revoked = on_revoked
        self._on_assigned = on_assigned

    def on_partitions_revoked(self, revoked: Sequence[TopicPartition]) -> None:
        log.debug("rebalance", partitions=sorted(partition.partition for partition in revoked))
        self._on_revoked(frozenset(PartitionKey(*partition) for partition in revoked))

    def on_partitions_assigned(self, assigned: Sequence[TopicPartition]) -> None:
        self._consumer.pause(*assigned)
        log.info("partitions assigned", partitions=sorted(partition.partition for partition in assigned))
        self._on_assigned(frozenset(PartitionKey(*partition) for partition in assigned))
