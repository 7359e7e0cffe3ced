"""A worker in the test's own process, on the embedded stack, and a way to put any bytes before it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from darkroom.consumer.kafka.broker import KafkaBroker
from darkroom.consumer.worker.ports import Broker
from darkroom.consumer.worker.worker import Worker
from darkroom.inference.contract import Engine
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.outcomes.dead_letters import replayed
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.producer.tasks import TaskSupervisor
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.names import Topic
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import decode_completion
from tests.integration.fleet import until

Answer = Completion | Any
"""A completion, or the consumer's record of a dead letter."""


@contextlib.asynccontextmanager
async def running_worker(
    settings: Settings,
    engine: Engine,
    make_broker: Callable[..., Broker] = KafkaBroker,
    make_tasks: Callable[..., TaskSupervisor] = TaskSupervisor,
) -> AsyncIterator[Worker]:
    """A worker that takes records, drained at the end."""
    objects = MinioObjects(settings.s3)
    await objects.ensure_bucket(retention_days=settings.s3.retention_days)
    worker = Worker(settings, engine, objects, make_broker=make_broker, make_tasks=make_tasks)
    running = asyncio.create_task(worker.run())
    try:
        await until(lambda: running.done() or _is_open(worker), 60, "the worker to open its partitions")
        yield worker
        worker.drain()
        assert await asyncio.wait_for(running, 60), "the drain was clean"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        objects.close()


def _is_open(worker: Worker) -> bool:
    partitions = worker.driver.snapshot().partitions
    return bool(partitions) and all(one.is_open for one in partitions)


class Producer:
    """Puts bytes on the request topic as they are, and finds what answered each record."""

    def __init__(self, settings: Settings) -> None:
        self._prefix = settings.topics.prefix
        self._arguments = kafka_arguments(settings.kafka)

    async def __aenter__(self) -> Producer:
        self._producer = AIOKafkaProducer(**self._arguments, max_request_size=8 * 1024 * 1024)
        await self._producer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()

    async def put(
        self,
        value: bytes | None,
        *,
        key: bytes | None = b"k",
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp_ms: int | None = None,
        topic: Topic = Topic.REQUESTS,
    ) -> tuple[int, int]:
        """Returns the record's partition and offset."""
        name = self._prefix + topic.value
        sent = await self._producer.send_and_wait(
            name, value, key=key, headers=list(headers), timestamp_ms=timestamp_ms
        )
        return sent.partition, sent.offset

    async def answers(self, wanted: set[tuple[int, int]], limit_s: float = 60.0) -> dict[tuple[int, int], list[Answer]]:
        """What was published for these records, dead letters included."""
        found: dict[tuple[int, int], list[Answer]] = {}
        topics = [self._prefix + Topic.COMPLETIONS.value, self._prefix + Topic.DEAD_LETTERS.value]
        consumer = AIOKafkaConsumer(
            *topics, **self._arguments, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        await consumer.start()
        try:
            async with asyncio.timeout(limit_s):
                while not wanted <= found.keys():
                    batches: dict[TopicPartition, list[Any]] = await consumer.getmany(timeout_ms=200)
                    for partition, records in batches.items():
                        for record in records:
                            if replayed(record.headers) is not None:
                                continue  # the note of a replay
                            place, answer = _read(record, is_completion=partition.topic == topics[0])
                            found.setdefault(place, []).append(answer)
        finally:
            await consumer.stop()
        return found


def _read(record: Any, *, is_completion: bool) -> tuple[tuple[int, int], Answer]:
    if is_completion:
        completion = decode_completion(record.value, record.headers)
        return (completion.source.partition, completion.source.offset), completion
    headers = dict(record.headers)
    return (int(headers["darkroom_source_partition"]), int(headers["darkroom_source_offset"])), record
