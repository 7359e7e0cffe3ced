"""Proves that missing topics are made as the settings say, once, and that existing ones are left alone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from darkroom.producer.kafka.connection import KafkaUnavailable, kafka_arguments
from darkroom.producer.kafka.reader import partitions_of
from darkroom.producer.kafka.topics import TopicRefused, ensure_topics
from darkroom.schemas.names import Topic
from darkroom.schemas.settings import Settings, load_settings

if TYPE_CHECKING:
    from tests.producer.deployments import MakeSettings


async def configuration_of(settings: Settings, topic: str) -> dict[str, str]:
    admin = AIOKafkaAdminClient(**kafka_arguments(settings.kafka))
    await admin.start()
    try:
        (response,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
        return {entry[0]: entry[1] for entry in response.resources[0][4]}
    finally:
        await admin.close()


async def create(settings: Settings, topic: str, partitions: int) -> None:
    admin = AIOKafkaAdminClient(**kafka_arguments(settings.kafka))
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, partitions, 1)])
    finally:
        await admin.close()


@pytest.mark.stack
async def test_all_topics_are_made_and_can_be_used_at_once(settings: Settings) -> None:
    names = [settings.topics.name(topic) for topic in Topic]
    assert list(await ensure_topics(settings)) == names
    partitions = await partitions_of(settings.kafka, names)
    counted = {name: sum(one.topic == name for one in partitions) for name in names}
    assert counted == {name: 3 if name == settings.topics.requests else 2 for name in names}
    assert await ensure_topics(settings) == ()


@pytest.mark.stack
async def test_each_topic_keeps_its_records_as_long_as_its_setting_says(make_settings: MakeSettings) -> None:
    settings = make_settings(
        topics__requests_retention_hours=100,
        topics__completions_retention_hours=200,
        topics__progress_retention_minutes=5,
        topics__cancellations_retention_hours=3,
        topics__dead_letters_retention_hours=400,
        topics__max_message_bytes=2_000_000,
    )
    await ensure_topics(settings)
    hours = 3_600_000
    expected = {
        settings.topics.requests: 100 * hours,
        settings.topics.completions: 200 * hours,
        settings.topics.progress: 5 * 60_000,
        settings.topics.cancellations: 3 * hours,
        settings.topics.dead_letters: 400 * hours,
    }
    for topic, retention_ms in expected.items():
        configuration = await configuration_of(settings, topic)
        assert configuration["retention.ms"] == str(retention_ms)
        assert configuration["cleanup.policy"] == "delete"
        assert configuration["max.message.bytes"] == "2000000"
        # Kafka removes whole segments only: one must not last longer than what is in it.
        assert int(configuration["segment.ms"]) <= retention_ms


@pytest.mark.stack
async def test_an_existing_topic_is_left_as_it_is(settings: Settings) -> None:
    await create(settings, settings.topics.requests, 7)
    created = await ensure_topics(settings)
    assert settings.topics.requests not in created
    assert len(created) == 4
    assert len(await partitions_of(settings.kafka, [settings.topics.requests])) == 7


@pytest.mark.stack
async def test_processes_that_start_together_make_each_topic_once(settings: Settings) -> None:
    created = await asyncio.gather(*(ensure_topics(settings) for _ in range(4)))
    assert sorted(name for names in created for name in names) == sorted(settings.topics.name(topic) for topic in Topic)


@pytest.mark.stack
async def test_what_the_broker_refuses_is_said_with_the_setting(make_settings: MakeSettings) -> None:
    with pytest.raises(TopicRefused, match=r"InvalidReplicationFactor.*DARKROOM_TOPICS__"):
        await ensure_topics(make_settings(topics__replication_factor=3))


async def test_a_broker_that_is_not_there_is_said_with_its_address() -> None:
    settings = load_settings(environ={"DARKROOM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    with pytest.raises(KafkaUnavailable, match=r"127\.0\.0\.1:1 .*DARKROOM_KAFKA__BOOTSTRAP_SERVERS"):
        await ensure_topics(settings)
