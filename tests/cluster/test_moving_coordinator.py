"""Proves that `init` lowers no offset while the group's coordinator moves to a broker that has to load the group first.

A coordinator that moves or loads answers for a second with errors that aiokafka's admin client drops: the group then
looks as if it had no offsets and no members. With offsets topics as large as this one, builds that believed it wrote
eight of twelve partitions back to 0 during one clean stop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from darkroom.consumer.kafka.initial_offsets import commit_offsets
from darkroom.producer.kafka.connection import KafkaUnavailable, administering
from darkroom.producer.kafka.groups import committed_offsets
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.settings import Settings
from tests.cluster.brokers import Brokers
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

PARTITIONS, RECORDS = 12, 40
COMMITS = 7_000
"""About 27 MB of the offsets topic, which the next coordinator reads before it knows the group."""
INITS = 3
MOVED_S_MAX = 60.0


@pytest.fixture
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    properties = {
        "offsets.topic.num.partitions": "1",
        "log.cleaner.enable": "false",
        "offsets.load.buffer.size": "5000",
    }
    with Brokers(tmp_path_factory.mktemp("brokers"), 3, properties) as started:
        yield started


async def test_init_lowers_no_offset_while_the_coordinator_moves(stack: Stack, brokers: Brokers) -> None:
    environment = {**stack.environment, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.bootstrap_servers}
    settings = deployment_on(environment)(
        topics__requests_partitions=PARTITIONS, topics__replication_factor=3, kafka__request_timeout_ms=8000
    )
    await ensure_topics(settings)
    places = [TopicPartition(settings.topics.requests, number) for number in range(PARTITIONS)]
    await fill(settings, places)
    coordinator = await coordinator_of(settings)
    async with initializing(settings) as taken_for_fresh:
        await asyncio.to_thread(brokers.stop, coordinator)
        deadline = time.monotonic() + MOVED_S_MAX
        while await offsets(settings, places) is None:
            assert time.monotonic() < deadline
    assert taken_for_fresh == []
    assert await offsets(settings, places) == dict.fromkeys(places, RECORDS)


async def fill(settings: Settings, places: list[TopicPartition]) -> None:
    """Put records, commit their end, and commit it again until the offsets topic is large."""
    servers = settings.kafka.bootstrap_servers
    async with AIOKafkaProducer(bootstrap_servers=servers) as producer:
        for place in places * RECORDS:
            await producer.send(place.topic, b"x", partition=place.partition)
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=settings.kafka.group_id, enable_auto_commit=False)
    await consumer.start()
    try:
        consumer.assign(places)
        large = dict.fromkeys(places, OffsetAndMetadata(RECORDS, "m" * 3_900))
        for _ in range(COMMITS // PARTITIONS // 20):
            await asyncio.gather(*(consumer.commit(large) for _ in range(20)))
    finally:
        await consumer.stop()


@asynccontextmanager
async def initializing(settings: Settings) -> AsyncIterator[list[tuple[int, ...]]]:
    """Run `init`'s part several times at once without pause; it may refuse. Tells which partitions it took for new."""
    taken_for_fresh: list[tuple[int, ...]] = []

    async def again_and_again() -> None:
        while True:
            try:
                done = await commit_offsets(settings)
            except KafkaUnavailable:
                await asyncio.sleep(0.05)
            else:
                taken_for_fresh.extend([done.committed] if done.committed else [])

    tasks = [asyncio.create_task(again_and_again()) for _ in range(INITS)]
    try:
        yield taken_for_fresh
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended), ended


async def coordinator_of(settings: Settings) -> int:
    """The broker that coordinates the group."""
    async with administering(settings.kafka, "testing") as admin:
        return int(await admin.find_coordinator(settings.kafka.group_id))


async def offsets(settings: Settings, places: list[TopicPartition]) -> dict[TopicPartition, int | None] | None:
    """What the group has committed; None while nobody tells."""
    try:
        async with administering(settings.kafka, "testing") as admin:
            found = await committed_offsets(admin, settings.kafka.group_id, places, timeout_s=8)
    except KafkaUnavailable:
        return None
    return {place: None if one is None else one.offset for place, one in found.items()}
