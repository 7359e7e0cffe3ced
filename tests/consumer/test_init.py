"""Proves that `darkroom init` readies a deployment, that a fleet of zero has a lag, and that workers are left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata
from click.testing import CliRunner

from darkroom import main
from darkroom.consumer.core.offset_map import encode_map
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.initial_offsets import Offsets, commit_offsets
from darkroom.consumer.kafka.writer import PartitionWriter
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.settings import Settings
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


@pytest.fixture
def settings(stack: Stack) -> Settings:
    return deployment_on(stack.environment)()


async def offsets_of(settings: Settings) -> Mapping[int, OffsetAndMetadata]:
    admin = AIOKafkaAdminClient(**kafka_arguments(settings.kafka))
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(settings.kafka.group_id)
    finally:
        await admin.close()
    return {place.partition: offset for place, offset in found.items()}


async def until_offsets_are(settings: Settings, expected: Mapping[int, OffsetAndMetadata]) -> None:
    """A transaction's offsets are there a moment after it was committed, when its markers are written."""
    seen: Mapping[int, OffsetAndMetadata] = {}
    for _ in range(100):
        seen = await offsets_of(settings)
        if seen == expected:
            return
        await asyncio.sleep(0.1)
    assert seen == expected


async def commit(settings: Settings, partition: int, offset: int, metadata: str) -> None:
    key = PartitionKey(settings.topics.requests, partition)
    writer = PartitionWriter(key, settings.kafka, kafka_arguments(settings.kafka), timeout_s=20)
    await writer.start()
    await writer.publish([], offset, metadata)
    await writer.stop()


async def test_a_fresh_group_has_an_offset_for_every_partition(settings: Settings) -> None:
    await ensure_topics(settings)
    assert await commit_offsets(settings) == Offsets(committed=(0, 1, 2))
    await until_offsets_are(settings, {place: OffsetAndMetadata(0, "") for place in range(3)})


async def test_what_was_committed_is_written_again_with_its_map(settings: Settings) -> None:
    await ensure_topics(settings)
    told = encode_map(PartitionKey(settings.topics.requests, 1), 3, [5])
    await commit(settings, 1, 3, told)
    assert await commit_offsets(settings) == Offsets(committed=(0, 2), refreshed=(1,))
    fresh = OffsetAndMetadata(0, "")
    await until_offsets_are(settings, {0: fresh, 1: OffsetAndMetadata(3, told), 2: fresh})


async def test_a_group_with_members_is_left_to_them(settings: Settings) -> None:
    await ensure_topics(settings)
    member = AIOKafkaConsumer(
        settings.topics.requests,
        **kafka_arguments(settings.kafka),
        group_id=settings.kafka.group_id,
        enable_auto_commit=False,
    )
    await member.start()
    try:
        await member.getmany(timeout_ms=100)
        assert member.assignment() == {TopicPartition(settings.topics.requests, place) for place in range(3)}
        assert await commit_offsets(settings) == Offsets(left=(0, 1, 2))
        assert await offsets_of(settings) == {}
    finally:
        await member.stop()


def test_the_command_readies_a_deployment_and_grows_it(settings: Settings, stack: Stack) -> None:
    environment = {
        **stack.environment,
        "DARKROOM_TOPICS__PREFIX": settings.topics.prefix,
        "DARKROOM_TOPICS__REQUESTS_PARTITIONS": "2",
        "DARKROOM_KAFKA__GROUP_ID": settings.kafka.group_id,
        "DARKROOM_S3__BUCKET": settings.s3.bucket,
    }

    def init(*flags: str, **more: str) -> dict[str, Any]:
        ended = CliRunner().invoke(main, ["init", "--json", *flags], env={**environment, **more})
        assert ended.exit_code == 0, ended.output
        said: dict[str, Any] = json.loads(ended.stdout)
        return said

    first = init()
    assert len(first["topics_made"]) == 5
    assert first["bucket_made"]
    assert first["offsets"] == {"committed": [0, 1], "refreshed": [], "left": []}
    more = {"DARKROOM_TOPICS__REQUESTS_PARTITIONS": "4"}
    assert init(**more)["partitions"] == 2, "growing is asked for, never done by the way"
    grown = init("--grow-partitions", **more)
    assert (grown["partitions"], grown["topics_made"], grown["bucket_made"]) == (4, [], False)
    assert grown["offsets"] == {"committed": [2, 3], "refreshed": [0, 1], "left": []}
    assert init("--grow-partitions")["partitions"] == 4, "fewer are never asked for"
