"""The consumer group member: polls, pauses, seeks, and opens partitions in the order that exactly-once needs.

What aiokafka makes necessary, each seen to go wrong otherwise:

- The rebalance listener only pauses and takes note. While a slow listener runs, `getmany` delivers from the
  old position and no heartbeat is sent.
- Every rebalance is eager: pause flags vanish and positions go back to the committed offset. So all partitions
  are paused in the callback, and delivered again only from where `resume` seeks to.
- `getmany` is never cancelled, only given a timeout: cancelling it inside a fetch breaks the poll watchdog.
- `committed()` drops the metadata, so offsets are read by `darkroom.producer.kafka.groups`, which believes no silence.
- The sticky assignor keeps its state on the class, so each member has a class of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

import structlog
from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.writer import PartitionWriter
from darkroom.consumer.worker.ports import (
    BrokerGone,
    BrokerUnavailable,
    Delivery,
    Noted,
    Opened,
    OutgoingRecord,
    PublicationUnknown,
    Record,
)
from darkroom.producer.kafka.administrator import Administrator
from darkroom.producer.kafka.client_tasks import ended_task
from darkroom.producer.kafka.closing import close
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.consuming import FETCH_BYTES_MAX, RecordConsumer
from darkroom.producer.kafka.denials import denial
from darkroom.producer.kafka.groups import Group, committed_offsets, describe_group
from darkroom.producer.kafka.record_batches import UnreadableBatch
from darkroom.producer.kafka.remedies import remedy
from darkroom.schemas.settings import Settings

log = structlog.get_logger(__name__)

OWNERSHIP_POLL_S = 0.5
"""How often the group is asked whose a partition is, after a fence."""
POSITIONS_S_MAX = 0.2
"""How long the positions may take to be known while a rebalance comes between."""
POSITIONS_EVERY_S = 0.5
"""How often partitions without new records are looked at, for control records, gaps and the lag: most polls bring
nothing, and looking at every partition was most of what they cost."""
POLLS_FAILED_MAX = 3
"""Polls that fail in a row before the consumer is taken to be dead."""
REPLACE_S_MIN = 1.0
REPLACE_S_MAX = 10.0
"""Between two new consumers: each joins the group anew, and so makes everybody rebalance."""
DEAD_S_MAX = 300.0
"""How long new consumers are tried. By then whoever watches readiness knows; a fresh process may fare better."""
HEARTBEATS_A_SESSION: Final = 5
"""Kafka advises three at least, so that one that is lost does not end the session."""
POLL_INTERVAL_MS_MAX: Final = 300_000
"""A worker that does not poll for so long leaves the group. It polls all the time, so this only catches one that
hangs."""
POLL_RECORDS_MAX: Final = 200
"""Records taken in one poll: bounds the work between two polls."""
LEAVE_S_MAX = 10.0
"""How long leaving the group may take; after that the group finds out by the session's time-out."""


class KafkaBroker:
    """`darkroom.consumer.worker.ports.Broker` on aiokafka."""

    def __init__(self, settings: Settings, *, topic: str, client_id: str) -> None:
        self._kafka = settings.kafka
        self._topic = topic
        self._client_id = client_id
        self._answer_s = settings.kafka.request_timeout_ms / 1000
        self._arguments = kafka_arguments(settings.kafka) | {"client_id": client_id}
        self._record_bytes_max = settings.topics.max_message_bytes
        self._consumer = self._new_consumer()
        self._noted: tuple[Noted, Noted] | None = None
        self._look_at = 0.0
        """When partitions without records are looked at next, by the event loop's clock."""
        self._polls_failed = 0
        """In a row, by this consumer."""
        self._repeating: str | None = None
        """Set where they are too many."""
        self._dead_since: float | None = None
        """When a consumer was first found dead and no poll has succeeded since, by the event loop's clock."""
        self._replace_at = 0.0
        """When the next consumer may be made."""
        self._replaced = 0
        """Consumers made since a poll last succeeded."""
        self._admin = Administrator(**self._arguments)
        self._writers: dict[PartitionKey, PartitionWriter] = {}

    def _new_consumer(self) -> RecordConsumer:
        kafka = self._kafka
        return RecordConsumer(
            **self._arguments,
            group_id=kafka.group_id,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            partition_assignment_strategy=[type("MemberAssignor", (StickyPartitionAssignor,), {})],
            session_timeout_ms=kafka.session_timeout_ms,
            heartbeat_interval_ms=kafka.session_timeout_ms // HEARTBEATS_A_SESSION,
            max_poll_interval_ms=POLL_INTERVAL_MS_MAX,
            rebalance_timeout_ms=kafka.rebalance_timeout_ms,
            max_poll_records=POLL_RECORDS_MAX,
            fetch_max_bytes=FETCH_BYTES_MAX,
            metadata_max_age_ms=kafka.metadata_max_age_ms,
        )

    async def join(self, on_revoked: Noted, on_assigned: Noted) -> None:
        """Join the group, and return once the client is started. Raises as `Broker.join` does."""
        self._noted = (on_revoked, on_assigned)
        try:
            await self._admin.start()
            await self._start_consumer()
        except (KafkaError, OSError) as error:
            explained = self._explained(error)
            raise BrokerUnavailable(
                f"Kafka at {self._kafka.bootstrap_servers} was not reached ({error!r}). Check the address and that it "
                "runs."
                if explained is None
                else f"The worker cannot join its group: {explained}"
            ) from error

    def _explained(self, error: BaseException) -> str | None:
        denied = denial(error, self._kafka, operation="Read", group_operation="Read")
        return remedy(error, self._kafka) if denied is None else denied

    async def _start_consumer(self) -> None:
        assert self._noted is not None
        self._consumer.subscribe([self._topic], listener=_Listener(self._consumer, *self._noted))
        await self._consumer.start()

    async def poll(self, timeout_s: float) -> Sequence[Delivery]:
        """Return the records of one poll, by partition."""
        if (why := ended_task(self._consumer) or self._repeating) is not None:
            await self._replace_consumer(why)
        try:
            deliveries = await self._poll(timeout_s)
        except KafkaError as error:
            self._polls_failed += 1
            if self._polls_failed >= POLLS_FAILED_MAX:
                self._repeating = f"{self._polls_failed} polls in a row failed, the last with {type(error).__name__}"
            said = self._explained(error) or f"{type(error).__name__}: {error}."
            raise BrokerUnavailable(f"Polling Kafka failed: {said}") from error
        self._dead_since, self._replaced, self._polls_failed, self._repeating = None, 0, 0, None
        return deliveries

    async def _replace_consumer(self, why: str) -> None:
        """Make a new consumer in place of one that is dead, with waits that double between two of them.

        aiokafka 0.14 recovers from a lost broker without an error from its polls. After a right on the group was
        missing for some seconds it raises the refusal from every later poll, for ever, while its tasks run on; after
        other errors its tasks end.

        The core is told nothing: partitions that come back go on where they were, and the writers' fence guards those
        that do not. Raises `BrokerGone` when nothing was read for `DEAD_S_MAX`.
        """
        now = asyncio.get_running_loop().time()
        self._dead_since = now if self._dead_since is None else self._dead_since
        if now - self._dead_since > DEAD_S_MAX:
            raise BrokerGone(
                f"The Kafka client of this worker has not read for {DEAD_S_MAX:.0f} s: {why}. The process ends, so "
                "that a restart takes up its work; check that the worker's principal may read the group and the topic."
            )
        if now < self._replace_at:
            raise BrokerUnavailable(f"The Kafka client of this worker is dead and is replaced in a moment: {why}.")
        self._replace_at = now + min(REPLACE_S_MAX, REPLACE_S_MIN * 2.0**self._replaced)
        self._replaced += 1
        log.warning("the consumer is dead and is replaced", why=why, replaced=self._replaced)
        self._polls_failed, self._repeating = 0, None
        dead, self._consumer = self._consumer, self._new_consumer()
        await close(dead)
        try:
            async with asyncio.timeout(self._answer_s):
                await self._start_consumer()
        except (KafkaError, OSError, TimeoutError) as error:
            said = self._explained(error) or f"{type(error).__name__}: {error}."
            raise BrokerUnavailable(f"A new consumer did not start: {said}") from error

    async def _poll(self, timeout_s: float) -> Sequence[Delivery]:
        try:
            batches = await self._consumer.getmany(timeout_ms=int(timeout_s * 1000))
            delivering = self._consumer.assignment() - self._consumer.paused()
            now = asyncio.get_running_loop().time()
            if now >= self._look_at:
                self._look_at = now + POSITIONS_EVERY_S
            else:
                delivering &= batches.keys()
            async with asyncio.timeout(POSITIONS_S_MAX):  # known at once, since a resumed partition was sought
                return [await self._delivery(one, batches.get(one, ())) for one in sorted(delivering)]
        except (IllegalStateError, TimeoutError):
            return []  # a rebalance came between: what was fetched is delivered again

    async def _delivery(self, partition: TopicPartition, batch: Sequence[Any]) -> Delivery:
        records = tuple(
            Record(one.offset, one.key, one.value, one.headers, one.timestamp, _flaw(partition, one.value))
            for one in batch
        )
        position = await self._consumer.position(partition)
        if not self._holds(partition):  # a rebalance came between
            raise IllegalStateError(f"{partition} is not assigned")
        end = self._consumer.last_stable_offset(partition)
        return Delivery(PartitionKey(*partition), records, position, end)

    def _holds(self, partition: TopicPartition) -> bool:
        """Return True if the consumer has the partition: aiokafka asserts it, and a new consumer has none for a while.

        Whatever is not done to a partition meanwhile, the core says again when the partition is assigned.
        """
        return partition in self._consumer.assignment()

    def pause(self, partition: PartitionKey) -> None:
        """Stop fetching a partition."""
        place = TopicPartition(*partition)
        if self._holds(place):
            self._consumer.pause(place)

    def resume(self, partition: PartitionKey, seek_to: int | None = None) -> None:
        """Fetch a partition again."""
        place = TopicPartition(*partition)
        if not self._holds(place):
            return
        if seek_to is not None:
            self._consumer.seek(place, seek_to)
        self._consumer.resume(place)

    async def open(self, partition: PartitionKey, *, prove_ownership: bool) -> Opened:
        """Fence every earlier writer of a partition, then read what the group committed."""
        await self.close(partition)
        try:
            while prove_ownership and not await self._owns(partition):
                await asyncio.sleep(OWNERSHIP_POLL_S)
            writer = self._writer(partition)
            await writer.start()
            self._writers[partition] = writer
            return await self._committed(partition)
        except (KafkaError, OSError) as error:
            said = self._explained(error) or f"{error!r}."
            raise BrokerUnavailable(f"Partition {partition.partition} could not be opened: {said}") from error

    async def _owns(self, partition: PartitionKey) -> bool:
        """Return True if the group is stable and gives the partition to this member.

        A member that was fenced may be a zombie: evicted without knowing it. Recreating its writer would then fence the
        lawful owner, so the group coordinator is asked first.
        """
        return (await self._group()).assigns(TopicPartition(*partition), self._client_id)

    async def _group(self) -> Group:
        return await describe_group(self._admin, self._kafka.group_id, timeout_s=self._answer_s)

    def _writer(self, partition: PartitionKey) -> PartitionWriter:
        return PartitionWriter(
            partition,
            self._kafka,
            self._arguments,
            timeout_s=self._kafka.request_timeout_ms / 1000,
            transaction_timeout_ms=self._kafka.transaction_timeout_ms,
            max_request_size=self._record_bytes_max,
        )

    async def _committed(self, partition: PartitionKey) -> Opened:
        """Read the offset and its metadata, and hold them against what the topic has."""
        place = TopicPartition(*partition)
        committed = (await committed_offsets(self._admin, self._kafka.group_id, [place], timeout_s=self._answer_s))[
            place
        ]
        consumer = self._consumer
        if consumer._fetcher is None:
            raise BrokerUnavailable("A new consumer is being started in place of a dead one.")
        begin = (await consumer.beginning_offsets([place]))[place]
        end = (await consumer.end_offsets([place]))[place]
        if committed is None:
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
        """Return the client ids of the group's members."""
        try:
            return (await self._group()).client_ids
        except (KafkaError, OSError) as error:
            raise BrokerUnavailable(f"The group's members could not be asked for: {error!r}.") from error

    async def publish(
        self, partition: PartitionKey, records: Sequence[OutgoingRecord], offset: int, metadata: str
    ) -> None:
        """Commit one transaction. Raises as `PartitionWriter.publish` does."""
        writer = self._writers.get(partition)
        if writer is None:
            raise PublicationUnknown(f"Partition {partition.partition} has no writer.")
        await writer.publish(records, offset, metadata)

    async def close(self, partition: PartitionKey) -> None:
        """Stop a partition's writer."""
        writer = self._writers.pop(partition, None)
        if writer is not None:
            await writer.stop()

    async def leave(self) -> None:
        """Close every writer, leave the group and close the clients, each within a limit."""
        await asyncio.gather(*(self.close(partition) for partition in list(self._writers)))
        await close(self._consumer, LEAVE_S_MAX)
        await close(self._admin)


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
