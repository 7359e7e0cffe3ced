"""The worker's side of Kafka: `darkroom.consumer.worker.ports.Broker` as one member of the simulated group.

Behaves as aiokafka does where that matters: every rebalance is eager, positions go back to what is committed, what a
poll had fetched before a rebalance may still be returned after it, and a fence is for good.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from aiokafka.errors import KafkaError

from darkroom.consumer.core.events import Refusal
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.worker.ports import (
    BrokerGone,
    BrokerUnavailable,
    Delivery,
    Noted,
    Opened,
    OutgoingRecord,
    PublicationRefused,
    PublicationUnknown,
    Record,
    WriterFenced,
)
from darkroom.producer.kafka import groups
from darkroom.producer.kafka.reader import TopicPartition
from tests.simulation.coordinator import GROUP, Asking
from tests.simulation.invariants import Invariants
from tests.simulation.kafka import Assignment, Cluster, Fenced, MetadataTooLong, Refused, Transaction
from tests.simulation.wire import Unanswered, Wire

POLL_RECORDS_MAX = 4
OWNERSHIP_POLL_S = 0.5
JOIN_S_MAX = 10.0
ANSWER_S_MAX = 3.0
REPLACE_S = 1.0


class SimBroker:
    """One group member and its writers."""

    def __init__(
        self, cluster: Cluster, wire: Wire, rng: random.Random, invariants: Invariants, *, boot: str, client_id: str
    ) -> None:
        self._cluster = cluster
        self._wire = wire
        self._rng = rng
        self._invariants = invariants
        self._boot = boot
        self.client_id = client_id
        self.writers: dict[PartitionKey, int] = {}
        """The epochs of the writers that this member started."""
        self._assigned: frozenset[PartitionKey] = frozenset()
        self._positions: dict[PartitionKey, int] = {}
        self._paused: set[PartitionKey] = set()
        self._rebalancing = True
        """From a rebalance's beginning to its end nothing is delivered."""
        self._coordinating: asyncio.Task[None] | None = None
        self._asking = Asking(cluster, wire, rng)
        self._noted: tuple[Noted, Noted] | None = None
        self.consumer_is_dead = False
        """Every poll fails until the consumer is replaced."""
        self.gone = False
        """No consumer works any more: only another process does."""

    async def join(self, on_revoked: Noted, on_assigned: Noted) -> None:
        """As the protocol says."""
        if self._wire.is_away:
            raise BrokerUnavailable("Kafka is away")
        self._noted = (on_revoked, on_assigned)
        self._coordinating = asyncio.get_running_loop().create_task(self._coordinate(on_revoked, on_assigned))

    async def _coordinate(self, on_revoked: Noted, on_assigned: Noted) -> None:
        while True:
            try:
                assignment: Assignment = await self._wire.call(
                    lambda: self._cluster.join(self.client_id), timeout_s=JOIN_S_MAX
                )
            except Unanswered:
                await asyncio.sleep(0.3)
                continue
            self._assigned = assignment.partitions
            self._paused = set(assignment.partitions)
            for key in assignment.partitions:
                committed = self._cluster.partitions[key].committed
                self._positions[key] = committed[0] if committed else 0
            self._invariants.assigned(self.client_id)
            self._rebalancing = False
            on_assigned(self._assigned)
            await assignment.interrupted
            self._rebalancing = True
            on_revoked(self._assigned)

    async def poll(self, timeout_s: float) -> Sequence[Delivery]:
        """As the protocol says."""
        if self.gone:
            raise BrokerGone("no consumer reads any more")
        if self.consumer_is_dead:
            await asyncio.sleep(REPLACE_S)
            await self._replace_consumer()
            raise BrokerUnavailable("the consumer was dead")
        if self._wire.is_away:
            await asyncio.sleep(timeout_s)
            if self._rng.random() < 0.3:
                raise BrokerUnavailable("polling failed")
            return []
        before = dict(self._positions)
        fetched = self._fetch()
        after = dict(self._positions)
        late = self._rng.random() < self._cluster.late_polls
        if any(fetched.values()):
            await asyncio.sleep(self._cluster.late_s if late else 0.004)
        else:
            await asyncio.sleep(timeout_s)
            before = dict(self._positions)
            fetched = self._fetch()
            after = dict(self._positions)
        while self._rebalancing and not self.consumer_is_dead:
            await asyncio.sleep(timeout_s)
        for key in fetched.keys() & self._paused & self._assigned:
            # Paused meanwhile: aiokafka fetches it again later, since only what it returns moves the position.
            if self._positions[key] == after[key]:
                self._positions[key] = before[key]
        return [
            Delivery(key, tuple(fetched.get(key, ())), self._positions[key], len(self._cluster.partitions[key].log))
            for key in sorted(self._assigned - self._paused)
        ]

    async def _replace_consumer(self) -> None:
        """Leave the group and join it anew. The core is told nothing until the new member is assigned partitions."""
        assert self._coordinating is not None
        assert self._noted is not None
        self._coordinating.cancel()
        self._assigned, self._rebalancing = frozenset(), False
        try:
            await self._wire.call(lambda: self._cluster.leave(self.client_id))
        except Unanswered:
            return  # tried again by the next poll
        self.consumer_is_dead = False
        self._rebalancing = True
        self._coordinating = asyncio.get_running_loop().create_task(self._coordinate(*self._noted))

    def _fetch(self) -> dict[PartitionKey, list[Record]]:
        fetched: dict[PartitionKey, list[Record]] = {}
        if self._rebalancing:
            return fetched
        for key in sorted(self._assigned - self._paused):
            fetched[key], self._positions[key] = self._cluster.fetch(key, self._positions[key], POLL_RECORDS_MAX)
        return fetched

    def pause(self, partition: PartitionKey) -> None:
        """As the protocol says."""
        self._paused.add(partition)

    def resume(self, partition: PartitionKey, seek_to: int | None = None) -> None:
        """As the protocol says."""
        if partition not in self._assigned:
            return
        if seek_to is not None:
            self._positions[partition] = seek_to
        self._paused.discard(partition)

    async def open(self, partition: PartitionKey, *, prove_ownership: bool) -> Opened:
        """As the protocol says."""
        await self.close(partition)
        try:
            if prove_ownership:
                await self._prove_ownership(partition)
            await self._fence(partition)
            return await self._committed(partition)
        except (Unanswered, KafkaError) as error:
            raise BrokerUnavailable("the partition was not opened") from error

    async def _prove_ownership(self, partition: PartitionKey) -> None:
        while not (await self._group()).assigns(TopicPartition(*partition), self.client_id):
            await asyncio.sleep(OWNERSHIP_POLL_S)
        self._invariants.proved(self.client_id, partition)

    async def _fence(self, partition: PartitionKey) -> None:
        self._invariants.taking_over(self.client_id, partition)
        self.writers[partition] = await self._wire.call(lambda: self._cluster.init_writer(partition))

    async def _committed(self, partition: PartitionKey) -> Opened:
        place = TopicPartition(*partition)
        committed = (await groups.committed_offsets(self._asking, GROUP, [place], timeout_s=ANSWER_S_MAX))[place]
        if committed is None:
            return Opened(0, "", fresh=True)
        return Opened(committed.offset, committed.metadata, fresh=False)

    async def _group(self) -> groups.Group:
        return await groups.describe_group(self._asking, GROUP, timeout_s=ANSWER_S_MAX)

    async def members(self) -> frozenset[str]:
        """As the protocol says."""
        try:
            return (await self._group()).client_ids
        except KafkaError as error:
            raise BrokerUnavailable("the members could not be asked for") from error

    async def publish(
        self, partition: PartitionKey, records: Sequence[OutgoingRecord], offset: int, metadata: str
    ) -> None:
        """As the protocol says."""
        epoch = self.writers.get(partition)
        if epoch is None:
            raise PublicationUnknown("the partition has no writer")
        transaction = Transaction(self._boot, tuple(records), offset, metadata)
        self._invariants.publishing(self._boot, partition, epoch)
        try:
            await self._wire.call(lambda: self._cluster.begin(partition, epoch, transaction))
            await self._wire.call(lambda: self._cluster.commit(partition, epoch))
        except Fenced as error:
            if self.writers.get(partition) == epoch:  # else it was fenced by this member's own next writer
                self._invariants.was_fenced(self.client_id, partition)
            raise WriterFenced("the writer was fenced") from error
        except MetadataTooLong as error:
            raise PublicationRefused(Refusal.METADATA, "the metadata is too long") from error
        except Refused as error:
            raise PublicationRefused(error.refusal, "the broker refuses it") from error
        except Unanswered as error:
            raise PublicationUnknown("the transaction was not confirmed") from error
        finally:
            self._invariants.published(self._boot, partition, epoch)

    async def close(self, partition: PartitionKey) -> None:
        """As the protocol says."""
        if self.writers.pop(partition, None) is not None:
            await asyncio.sleep(0.01)

    async def leave(self) -> None:
        """As the protocol says."""
        if self._coordinating is not None:
            self._coordinating.cancel()
        try:
            await self._wire.call(lambda: self._cluster.leave(self.client_id))
        except Unanswered:
            self._cluster.silent(self.client_id, lambda: True)
