"""Reads the cancellations topic: every worker, all of it, without a group, from an hour back.

A request and its cancellation are in different topics, so either may be read first; a cancellation that comes
before its request is remembered by the core. Nothing is committed: what matters is only what is recent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka.errors import KafkaError

from producer.consuming import RecordConsumer
from producer.passed_over import PassedOver
from schemas.codec import decode_cancellation
from schemas.errors import EventUnreadable
from schemas.events import Cancellation

log = structlog.get_logger(__name__)

BACK_S = 3600
"""How far back a starting worker reads: longer than a request usually waits."""
RETRY_S = 5.0
"""The pause after Kafka failed here; cancelling is a convenience, and the requests go on."""


async def follow(topic: str, arguments: dict[str, Any], on_cancelled: Callable[[Cancellation], None]) -> None:
    """Report each cancellation, until cancelled itself."""
    passed_over = PassedOver()
    while True:
        consumer = RecordConsumer(topic, **arguments, isolation_level="read_committed", auto_offset_reset="earliest")
        try:
            await consumer.start()
            await _follow(consumer, on_cancelled, passed_over)
        except (KafkaError, OSError) as error:
            log.warning("cancellations cannot be read at the moment", error=repr(error))
            await asyncio.sleep(RETRY_S)
        finally:
            await consumer.stop()


async def _follow(
    consumer: RecordConsumer, on_cancelled: Callable[[Cancellation], None], passed_over: PassedOver
) -> None:
    await _start_back(consumer)
    while True:
        for batch in (await consumer.getmany(timeout_ms=1000)).values():
            for record in batch:
                try:
                    cancellation = decode_cancellation(record.value, record.headers)
                except EventUnreadable as error:
                    if told := passed_over.add(record, error.message):
                        log.warning(told)
                else:
                    on_cancelled(cancellation)


async def _start_back(consumer: RecordConsumer) -> None:
    partitions = consumer.assignment()
    # Asked first: what is published between the two questions is behind this end, or found by its time.
    ends = await consumer.end_offsets(partitions)
    since = await consumer.offsets_for_times(dict.fromkeys(partitions, int((time.time() - BACK_S) * 1000)))
    for partition, found in since.items():
        consumer.seek(partition, ends[partition] if found is None else found.offset)
