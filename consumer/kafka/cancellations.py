"""Reads the cancellations topic: every worker, all of it, without a group, from an hour back.

Kafka finds the place by the records' times, which producers write as they like. So the reading begins some records
further back, and of these counts those whose time cannot be meant: seconds where milliseconds belong, zero, none.

A request and its cancellation are in different topics, so either may be read first; a cancellation that comes
before its request is remembered by the core. Nothing is committed: what matters is only what is recent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from darkroom.consumer.worker.intake import EARLIEST_MS
from darkroom.producer.kafka.client_tasks import ended_task
from darkroom.producer.kafka.closing import close
from darkroom.producer.kafka.consuming import RecordConsumer
from darkroom.producer.kafka.passed_over import PassedOver
from darkroom.producer.outages import KAFKA
from darkroom.schemas.errors import EventUnreadable
from darkroom.schemas.events.progress import Cancellation
from darkroom.schemas.wire.codec import decode_cancellation

log = structlog.get_logger(__name__)

BACK_S = 3600
"""How far back a starting worker reads: longer than a request usually waits."""
STRAYS_MAX = 1_000
"""How many records before that, of each partition, are looked at for such times. A cancellation has about 100 bytes."""
RETRY_S = 5.0
"""The pause after Kafka failed here; cancelling is a convenience, and the requests go on."""


class CancellationFollower:
    """Reads the topic. After a failure of any kind `run` goes on from where it was: no cancellation is passed over."""

    def __init__(self, topic: str, arguments: dict[str, Any], on_cancelled: Callable[[Cancellation], None]) -> None:
        """`arguments` are those of every client, as `darkroom.producer.kafka.connection.kafka_arguments` makes them."""
        self._topic = topic
        self._arguments = arguments
        self._on_cancelled = on_cancelled
        self._passed_over = PassedOver()
        self._positions: dict[TopicPartition, int] = {}
        """The next offset to read of each partition, once one was connected to."""
        self._recent: dict[TopicPartition, int] = {}
        """From where on the records of each partition are an hour old or younger, or have a time that is not one."""

    async def run(self) -> None:
        """Report each cancellation, until cancelled itself."""
        while True:
            consumer = RecordConsumer(
                self._topic, **self._arguments, isolation_level="read_committed", auto_offset_reset="earliest"
            )
            try:
                await consumer.start()
                await self._follow(consumer)
            except (KafkaError, OSError) as error:
                KAFKA.failed("cancellations", repr(error))
                await asyncio.sleep(RETRY_S)
            finally:
                await close(consumer)

    async def _follow(self, consumer: RecordConsumer) -> None:
        await self._start(consumer)
        KAFKA.answered("cancellations")
        while True:
            if (ended := ended_task(consumer)) is not None:
                raise KafkaError(f"the reader of cancellations cannot go on: {ended}")
            for batch in (await consumer.getmany(timeout_ms=1000)).values():
                for record in batch:
                    self._positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
                    self._take(record)

    def _take(self, record: Any) -> None:
        is_before = record.offset < self._recent[TopicPartition(record.topic, record.partition)]
        if is_before and record.timestamp >= EARLIEST_MS:
            return
        try:
            cancellation = decode_cancellation(record.value, record.headers)
        except EventUnreadable as error:
            if told := self._passed_over.add(record, error.message):
                log.warning(told)
        else:
            self._on_cancelled(cancellation)

    async def _start(self, consumer: RecordConsumer) -> None:
        """Go on where this process was; begin with what it has not read of yet an hour and some records back."""
        partitions = consumer.assignment()
        # Asked first: what is published between the two questions is behind this end, or found by its time.
        ends = await consumer.end_offsets(partitions)
        since = await consumer.offsets_for_times(dict.fromkeys(partitions, int((time.time() - BACK_S) * 1000)))
        beginnings = await consumer.beginning_offsets(partitions)
        for partition, found in since.items():
            recent = self._recent.setdefault(partition, ends[partition] if found is None else found.offset)
            back = max(beginnings[partition], recent - STRAYS_MAX)
            consumer.seek(partition, self._positions.setdefault(partition, back))
