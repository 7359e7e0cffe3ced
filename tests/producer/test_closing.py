"""Proves that closing a Kafka client is bounded, leaves none of its tasks running, and loses no cancellation."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError, ProducerClosed

from darkroom.producer.kafka.closing import close
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.settings import Settings

pytestmark = pytest.mark.stack

LIMIT_S = 10.0


async def never_told(heard: list[str]) -> None:
    """Run as a client's task that loses its first cancellation does."""
    while True:
        try:
            await asyncio.sleep(LIMIT_S)
        except asyncio.CancelledError:
            if heard:
                raise
            heard.append("once")


async def connected_consumer(settings: Settings) -> AIOKafkaConsumer:
    consumer = AIOKafkaConsumer(**kafka_arguments(settings.kafka))
    await consumer.start()
    await consumer.topics()  # connects to a broker beyond the bootstrap
    return consumer


async def with_a_deaf_task(consumer: AIOKafkaConsumer) -> asyncio.Task[None]:
    task = consumer._client._sync_task
    task.cancel()
    await asyncio.wait({task})
    consumer._client._sync_task = asyncio.get_running_loop().create_task(never_told([]))
    await asyncio.sleep(0)
    return consumer._client._sync_task  # type: ignore[no-any-return]


async def test_a_client_whose_task_loses_its_cancellation_is_closed_all_the_same(settings: Settings) -> None:
    consumer = await connected_consumer(settings)
    deaf = await with_a_deaf_task(consumer)
    connections = list(consumer._client._conns.values())
    async with asyncio.timeout(LIMIT_S):
        await close(consumer, 0.2)
        await asyncio.wait({deaf})
    assert connections
    assert not any(one.connected() for one in connections)


async def test_a_producer_that_cannot_close_leaves_no_sender_and_nobody_waiting(settings: Settings) -> None:
    await ensure_topics(settings)
    producer = AIOKafkaProducer(**kafka_arguments(settings.kafka), linger_ms=60_000)
    await producer.start()
    sender = producer._sender.sender_task
    sent = await producer.send(settings.topics.requests, b"value")

    async def hang() -> None:
        await asyncio.Event().wait()

    producer._message_accumulator.close = hang
    async with asyncio.timeout(LIMIT_S):
        await close(producer, 0.2)
        with pytest.raises(ProducerClosed):
            await sent
        await asyncio.wait({sender})


async def test_whoever_is_cancelled_while_a_client_closes_is_cancelled_at_once(settings: Settings) -> None:
    consumer = await connected_consumer(settings)
    deaf = await with_a_deaf_task(consumer)
    closing = asyncio.get_running_loop().create_task(close(consumer, LIMIT_S))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.wait({deaf})


async def test_a_client_that_was_never_started_is_closed(settings: Settings) -> None:
    await close(AIOKafkaProducer(**kafka_arguments(settings.kafka)))
    await close(AIOKafkaConsumer(**kafka_arguments(settings.kafka)))


async def test_whoever_waits_for_the_metadata_of_a_client_is_told_when_it_closes(settings: Settings) -> None:
    producer = AIOKafkaProducer(**kafka_arguments(settings.kafka))
    await producer.start()
    sending = asyncio.get_running_loop().create_task(producer.send(f"{settings.kafka.group_id}-absent", b"value"))
    while producer.client._md_update_fut is None:
        await asyncio.sleep(0)
    async with asyncio.timeout(LIMIT_S):
        await close(producer)
        with pytest.raises(KafkaError):
            await sending
        with pytest.raises(KafkaError):
            await producer.send(f"{settings.kafka.group_id}-absent", b"value")
