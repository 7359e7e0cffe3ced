"""Asks Kafka for the backlog, and for the place of a request in its partition, at most once a second.

A place is an estimate: it counts the records before the request that the group has not committed yet. Some of those may
be finished, because workers finish out of order and commit in intervals.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from darkroom.producer.kafka.connection import (
    KafkaDenied,
    KafkaUnavailable,
    administering,
    kafka_arguments,
    reaching_kafka,
)
from darkroom.producer.kafka.consuming import RecordConsumer
from darkroom.producer.kafka.groups import committed_offsets, describe_group
from darkroom.producer.kafka.reader import GROWTH_CHECK_S, TopicPartition, partitions_of
from darkroom.producer.outages import KAFKA

if TYPE_CHECKING:
    from darkroom.schemas.settings import Settings

FRESH_S: Final = 1.0
"""Seconds for which Kafka's answer is reused."""
AGAIN_S: Final = 1.0
"""Seconds between two tries to connect."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The unfinished records of each partition."""

    ends: Mapping[int, int]
    committed: Mapping[int, int]
    """Lacks the partitions in which the group has committed nothing yet."""
    workers: int | None = None
    """Members of the group, or None where Kafka does not say."""

    def before(self, partition: int, offset: int) -> int:
        """Return the number of records before `offset` that are not committed."""
        return max(0, offset - self.committed.get(partition, 0))

    @property
    def lag_records(self) -> int:
        """Return the number of records that are not committed, in all partitions."""
        return sum(self.before(partition, end) for partition, end in self.ends.items())

    @property
    def partitions_waiting(self) -> int:
        """Return the number of partitions with such records."""
        return sum(self.before(partition, end) > 0 for partition, end in self.ends.items())


class Queue:
    """Watches the requests topic and its group while `run` runs.

    Every method raises `KafkaUnavailable` within `gateway.kafka_timeout_s`.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topics.requests
        self._connected: tuple[RecordConsumer, Any] | None = None
        self._broken = asyncio.Event()
        self._asking = asyncio.Lock()
        self._backlog: Backlog | None = None
        self._backlog_at = 0.0
        self._partitions: list[int] = []
        self.denied: str | None = None
        """The right that was missing when Kafka was last asked."""
        self.reached_at = float("-inf")
        """When Kafka last answered, by the monotonic clock in seconds."""

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                async with AsyncExitStack() as open_:
                    self._connected = await self._connect(open_)
                    self._broken.clear()
                    KAFKA.answered("queue")
                    while not await self._breaks_within(GROWTH_CHECK_S):
                        self._partitions = await self._look_for_partitions()
            except KafkaUnavailable as error:
                KAFKA.failed("queue", error)
            finally:
                self._connected = None
            await asyncio.sleep(AGAIN_S)

    async def _breaks_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._broken.wait()
        except TimeoutError:
            return False
        return True

    async def _look_for_partitions(self) -> list[int]:
        return sorted(place.partition for place in await partitions_of(self._settings.kafka, (self._topic,)))

    async def _connect(self, open_: AsyncExitStack) -> tuple[RecordConsumer, Any]:
        kafka = self._settings.kafka
        self._partitions = await self._look_for_partitions()
        admin = await open_.enter_async_context(administering(kafka, "connecting to read the backlog"))
        consumer = RecordConsumer(**kafka_arguments(kafka), enable_auto_commit=False)
        open_.push_async_callback(consumer.stop)
        with reaching_kafka(kafka, "connecting to read the backlog"):
            await consumer.start()
            await asyncio.sleep(0)  # the client's own tasks have to start before it can be stopped
        return consumer, admin

    async def backlog(self) -> Backlog:
        """Return the backlog, at most `FRESH_S` old. Concurrent callers share one question to Kafka."""
        async with self._asking:
            if self._backlog is None or time.monotonic() - self._backlog_at > FRESH_S:
                async with self._reaching() as (consumer, admin):
                    ends = await consumer.end_offsets([TopicPartition(self._topic, one) for one in self._partitions])
                    committed = await self._committed(admin)
                    workers = await self._workers(admin)
                self._backlog = Backlog({place.partition: end for place, end in ends.items()}, committed, workers)
                self._backlog_at = time.monotonic()
            return self._backlog

    async def _committed(self, admin: Any) -> dict[int, int]:
        places = [TopicPartition(self._topic, one) for one in self._partitions]
        timeout_s = self._settings.gateway.kafka_timeout_s
        found = await committed_offsets(admin, self._settings.kafka.group_id, places, timeout_s=timeout_s)
        return {place.partition: at.offset for place, at in found.items() if at is not None}

    async def _workers(self, admin: Any) -> int | None:
        kafka, timeout_s = self._settings.kafka, self._settings.gateway.kafka_timeout_s
        try:
            return len((await describe_group(admin, kafka.group_id, timeout_s=timeout_s)).members)
        except KafkaError:  # a backlog without this is worth telling all the same
            return None

    async def partition_of(self, request_id: str) -> int:
        """Return the partition that Darkroom's producers choose for a request id."""
        async with self._reaching():
            return int(DefaultPartitioner()(request_id.encode(), self._partitions, self._partitions))

    async def offset_at(self, partition: int, moment: datetime) -> int:
        """Return the offset of the first record that is not older than `moment`, or the partition's end."""
        place = TopicPartition(self._topic, partition)
        async with self._reaching() as (consumer, _):
            found = (await consumer.offsets_for_times({place: int(moment.timestamp() * 1000)}))[place]
            if found is not None:
                return int(found.offset)
            return int((await consumer.end_offsets([place]))[place])

    @asynccontextmanager
    async def _reaching(self) -> AsyncIterator[tuple[RecordConsumer, Any]]:
        kafka = self._settings.kafka
        if self._connected is None:
            raise KafkaUnavailable(f"There is no connection to Kafka at {kafka.bootstrap_servers} at the moment.")
        try:
            with reaching_kafka(kafka, "reading the backlog"):
                async with asyncio.timeout(self._settings.gateway.kafka_timeout_s):
                    yield self._connected
        except Exception as error:  # whatever it is, a new connection is free of it
            self.denied = str(error) if isinstance(error, KafkaDenied) else self.denied
            self._broken.set()
            raise
        self.denied = None
        self.reached_at = time.monotonic()
