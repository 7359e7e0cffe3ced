"""Makes the topics that are not there yet, with this deployment's partitions, retention and record size.

A topic that exists is left as it is, whatever its configuration: it may be somebody's who knows better (the chart
sets the same values), and changing partitions under running consumers is a decision for people.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from darkroom.producer.kafka.administrator import Administrator
from darkroom.producer.kafka.connection import KafkaDenied, KafkaUnavailable, administering
from darkroom.producer.kafka.denials import hidden_topic
from darkroom.schemas.names import Topic
from darkroom.schemas.settings import KafkaSettings, Settings, TopicSettings

__all__ = ["KafkaUnavailable", "TopicRefused", "ensure_topics", "grow_requests"]

_HOUR_MS: Final = 3_600_000
_MINUTE_MS: Final = 60_000
_LEADER_POLL_S: Final = 0.05
"""New partitions have leaders after some tens of milliseconds."""


BROKERS_DEFAULT: Final = -1
"""A replication factor that leaves the choice to the broker's `default.replication.factor`."""


class TopicRefused(Exception):  # noqa: N818 - the broker's decision
    """The broker does not make a topic, and would not the next time: one sentence with the remedy."""


async def ensure_topics(settings: Settings) -> tuple[str, ...]:
    """Create what is missing of the five topics and return the created names, in the order of
    `darkroom.schemas.names.Topic`.

    Returns when every created partition has a leader, so the topics can be used at once. Any number of processes may
    do this at the same time: each name is returned by one of them. Raises `KafkaUnavailable` and `TopicRefused`, and
    `KafkaDenied` for topics that Kafka neither shows nor lets this user make.
    """
    kafka = settings.kafka
    async with administering(kafka, "looking for the topics") as admin:
        there = set(await admin.list_topics())
        missing = [topic for topic in Topic if settings.topics.name(topic) not in there]
        if not missing:
            return ()
        created = await _create(admin, kafka, settings.topics, missing)
        await _wait_for_leaders(admin, kafka, created)
        return created


async def grow_requests(settings: Settings) -> int:
    """Raise the request topic's partitions to `topics.requests_partitions`; return how many there are then.

    Never fewer than there are: Kafka cannot take one away. Records of a request id may then be in two partitions, as
    they may be anyhow, since producers disagree on partitioners. Raises `KafkaUnavailable`.
    """
    name, wanted = settings.topics.requests, settings.topics.requests_partitions
    async with administering(settings.kafka, "adding partitions") as admin:
        (described,) = await admin.describe_topics([name])
        there = len(described["partitions"])
        if there < wanted:
            await admin.create_partitions({name: NewPartitions(wanted)})
            await _wait_for_leaders(admin, settings.kafka, (name,), partitions_min=wanted)
    return max(there, wanted)


async def _create(
    admin: Administrator,
    kafka: KafkaSettings,
    topics: TopicSettings,
    missing: Sequence[Topic],
    *,
    validate_only: bool = False,
) -> tuple[str, ...]:
    response = await admin.create_topics([_new_topic(topics, topic) for topic in missing], validate_only=validate_only)
    created = []
    for name, code, message, *_ in response.topic_errors:
        error = for_code(code)
        if code == 0:
            created.append(name)
        elif error is TopicAlreadyExistsError:
            continue  # another process was quicker
        elif getattr(error, "retriable", False):
            raise error(message or name)
        else:
            if error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
                raise KafkaDenied(hidden_topic(name, kafka))
            raise TopicRefused(
                f"Kafka did not make the topic {name} ({error.__name__}: {message or 'no reason given'}). Correct the "
                "DARKROOM_TOPICS__* settings (the replication factor is at most the number of brokers), or let an "
                "administrator make the topic."
            )
    return tuple(created)


async def would_be_made(settings: Settings, missing: Sequence[Topic]) -> None:
    """Have the broker judge what `ensure_topics` would ask of it, and make nothing. Raises as `ensure_topics` does."""
    async with administering(settings.kafka, "asking whether the topics can be made") as admin:
        await _create(admin, settings.kafka, settings.topics, missing, validate_only=True)


async def _wait_for_leaders(
    admin: Administrator, kafka: KafkaSettings, created: Sequence[str], partitions_min: int = 1
) -> None:
    deadline = time.monotonic() + kafka.request_timeout_ms / 1000
    waiting = list(created)
    while waiting:
        described = await admin.describe_topics(waiting)
        usable = [one for one in described if one["error_code"] == 0]
        ready = {one["topic"] for one in usable if _has_leaders(one["partitions"], partitions_min)}
        waiting = [name for name in waiting if name not in ready]
        if waiting and time.monotonic() > deadline:
            raise KafkaError(f"no leader for the new topic {waiting[0]}")
        if waiting:
            await asyncio.sleep(_LEADER_POLL_S)


def _has_leaders(partitions: Sequence[dict[str, int]], partitions_min: int) -> bool:
    led = [one for one in partitions if one["error_code"] == 0 and one["leader"] >= 0]
    return len(led) == len(partitions) >= partitions_min


def retention_ms_of(topics: TopicSettings, topic: Topic) -> int:
    """Return how long the settings have a topic keep its records, in milliseconds."""
    return {
        Topic.REQUESTS: topics.requests_retention_hours * _HOUR_MS,
        Topic.COMPLETIONS: topics.completions_retention_hours * _HOUR_MS,
        Topic.PROGRESS: topics.progress_retention_minutes * _MINUTE_MS,
        Topic.CANCELLATIONS: topics.cancellations_retention_hours * _HOUR_MS,
        Topic.DEAD_LETTERS: topics.dead_letters_retention_hours * _HOUR_MS,
    }[topic]


def _new_topic(topics: TopicSettings, topic: Topic) -> NewTopic:
    retention_ms = retention_ms_of(topics, topic)
    configuration = {
        "cleanup.policy": "delete",
        "retention.ms": str(retention_ms),
        # Only whole segments are removed: with the broker's week-long ones a retention of minutes would be a week's.
        "segment.ms": str(max(_MINUTE_MS, min(retention_ms, 24 * _HOUR_MS))),
        "max.message.bytes": str(topics.max_message_bytes),
    }
    if topics.replication_factor != BROKERS_DEFAULT:
        # A record is accepted when this many replicas have it; one of three may be away.
        configuration["min.insync.replicas"] = str(max(1, topics.replication_factor - 1))
    new = NewTopic(
        name=topics.name(topic),
        num_partitions=topics.requests_partitions if topic is Topic.REQUESTS else topics.completions_partitions,
        replication_factor=1,
        topic_configs=configuration,
    )
    # Its constructor refuses -1 (KIP-464), which brokers have taken in every version of the request since Kafka 2.4.
    new.replication_factor = topics.replication_factor
    return new
