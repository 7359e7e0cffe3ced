"""`darkroom init` beside everything else: the product's own decisions, with a simulated writer and coordinator."""

from __future__ import annotations

import random
from collections.abc import Sequence

from aiokafka.errors import KafkaError

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.initial_offsets import settle_offsets
from darkroom.consumer.worker.ports import (
    BrokerUnavailable,
    OutgoingRecord,
    PublicationRefused,
    PublicationUnknown,
    WriterFenced,
)
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.kafka.reader import TopicPartition
from darkroom.schemas.settings import KafkaSettings
from tests.simulation.coordinator import GROUP, Asking
from tests.simulation.kafka import Cluster, Fenced, Refused, Transaction
from tests.simulation.wire import Unanswered, Wire

WRITER = "init"


class InitWriter:
    """`darkroom.consumer.kafka.initial_offsets.OffsetWriter` on the simulated cluster."""

    def __init__(self, cluster: Cluster, wire: Wire, key: PartitionKey) -> None:
        self._cluster = cluster
        self._wire = wire
        self._key = key
        self._epoch = 0

    async def start(self) -> None:
        """As the protocol says."""
        try:
            self._epoch = await self._wire.call(lambda: self._cluster.init_writer(self._key))
        except Unanswered as error:
            raise BrokerUnavailable("the writer did not start") from error

    async def publish(self, records: Sequence[OutgoingRecord], offset: int, metadata: str) -> None:
        """As the protocol says."""
        transaction = Transaction(WRITER, tuple(records), offset, metadata)
        try:
            await self._wire.call(lambda: self._cluster.begin(self._key, self._epoch, transaction))
            await self._wire.call(lambda: self._cluster.commit(self._key, self._epoch))
        except Fenced as error:
            raise WriterFenced("the writer was fenced") from error
        except Refused as error:
            raise PublicationRefused(error.refusal, "the broker refuses it") from error
        except Unanswered as error:
            raise PublicationUnknown("the transaction was not confirmed") from error

    async def stop(self) -> None:
        """As the protocol says."""


async def initialize(cluster: Cluster, wire: Wire, rng: random.Random) -> str:
    """Run it once. Returns what became of it: it may refuse, and lower nothing."""
    beginnings = {TopicPartition(*key): 0 for key in cluster.partitions}
    try:
        done = await settle_offsets(
            Asking(cluster, wire, rng),
            KafkaSettings(group_id=GROUP),
            beginnings,
            lambda place: InitWriter(cluster, wire, PartitionKey(*place)),
        )
    except (KafkaError, KafkaUnavailable) as error:
        return f"refuses: {type(error).__name__}"
    return f"committed {done.committed}, refreshed {done.refreshed}, left {done.left}"
