"""Compares the topics as they are with what the settings need: each difference is a sentence and its remedy.

Topics that somebody else made, by hand, by a tool or by the broker's `auto.create.topics.enable`, have the broker's
defaults. Darkroom changes nothing about them; it says what follows from that and how to change it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError, for_code

from darkroom.producer.kafka.administrator import Administrator
from darkroom.producer.kafka.connection import KafkaUnavailable, administering
from darkroom.producer.kafka.topics import TopicRefused, retention_ms_of
from darkroom.schemas.names import OFFSET_METADATA_BYTES_MAX, Topic
from darkroom.schemas.settings import KafkaSettings, Settings

log = structlog.get_logger(__name__)

COMPLETION_BYTES_MAX: Final = 256 * 1024
"""More than the largest completion: 32 warnings, 16 labels, 8 pictures' keys and the echoed headers at their bounds."""
CLOCKS_APART_MS: Final = 5 * 60_000
"""A broker that refuses times so near to its own refuses producers whose clocks are off by minutes."""
REPLICAS_MIN: Final = 3
"""Replicas of which one can be away while a record still has two."""
BROKERS_MAX: Final = 100
"""Brokers that are asked for their configuration; clusters are rarely larger, and brokers are configured alike."""

_TOPIC_CONFIGS: Final = (
    "cleanup.policy",
    "max.message.bytes",
    "min.insync.replicas",
    "retention.bytes",
    "retention.ms",
    "unclean.leader.election.enable",
)
_TIME_CONFIGS: Final = (
    "message.timestamp.before.max.ms",
    "message.timestamp.after.max.ms",
    "message.timestamp.difference.max.ms",
)
"""The first two since Kafka 3.6; the last one until 3.9. A broker tells those that it knows."""
_BROKER_CONFIGS: Final = ("offset.metadata.max.bytes", "transaction.max.timeout.ms", "group.max.session.timeout.ms")

_WRITTEN_BY_WORKERS: Final = (Topic.COMPLETIONS, Topic.DEAD_LETTERS)
_FORGOTTEN: Final = {
    Topic.REQUESTS: "forgets a request whose id is sent again before a worker took it, and refuses those without a key",
    Topic.COMPLETIONS: "forgets all outcomes of a request id but the last, and `darkroom audit` misses them",
    Topic.PROGRESS: "keeps the last progress of every request for ever",
    Topic.CANCELLATIONS: "keeps the last cancellation of every request id, and one tenant's replaces another's",
    Topic.DEAD_LETTERS: "forgets all dead letters of a key but the last",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as the settings need it."""

    subject: str
    """The topic's name, or `cluster`."""
    says: str
    """One sentence of what is so and what follows."""
    remedy: str
    is_advice: bool = False
    """Whether everything works meanwhile, and nothing is lost but by a further misfortune."""
    is_fatal: bool = False
    """Whether no worker can do its work before it is changed."""


@dataclass(frozen=True, slots=True)
class SeenTopic:
    """A topic as the cluster describes it."""

    partitions: int
    replicas_min: int
    """Of the partition that has fewest."""
    configuration: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class SeenCluster:
    """The topics and the brokers, as far as they may be read."""

    brokers: int
    topics: Mapping[Topic, SeenTopic]
    """Those that exist and may be described."""
    configuration: Mapping[str, int] = field(default_factory=dict)
    """The least of the brokers' values of each setting."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Why something could not be read, by its subject."""

    def missing(self) -> tuple[Topic, ...]:
        """Return the topics that do not exist."""
        return tuple(topic for topic in Topic if topic not in self.topics and topic.value not in self.unread)


async def compare_topics(settings: Settings) -> tuple[SeenCluster, list[Difference]]:
    """Read the cluster and return it with its differences. Raises `KafkaUnavailable`. Makes and changes nothing."""
    async with administering(settings.kafka, "comparing the topics with the settings") as admin:
        seen = await _look(admin, settings)
    return seen, differences(settings, seen)


async def warn_of_topics(settings: Settings) -> None:
    """Log each difference, at a worker's start. A cluster that cannot be read is logged as well, and ends nothing.

    Raises `TopicRefused` for a difference with which no worker can do its work.
    """
    try:
        _, found = await compare_topics(settings)
    except KafkaUnavailable as error:
        log.warning("the topics were not compared with the settings", error=str(error))
        return
    for one in found:
        if one.is_fatal:
            raise TopicRefused(f"{one.says[0].upper()}{one.says[1:]}. {one.remedy}")
        report = log.info if one.is_advice else log.warning
        report("not as the settings need it", subject=one.subject, says=one.says, remedy=one.remedy)


def differences(settings: Settings, seen: SeenCluster) -> list[Difference]:
    """Return what is not as the settings need it, topic by topic, the cluster last."""
    found: list[Difference] = []
    for topic, one in seen.topics.items():
        found += _of_topic(settings, topic, one, brokers=seen.brokers)
    found += _of_cluster(settings.kafka, seen.configuration)
    for subject, why in seen.unread.items():
        name = settings.topics.name(Topic(subject)) if subject in set(Topic) else subject
        found.append(
            Difference(name, f"{name} could not be read ({why}): it was not compared", _READ_REMEDY, is_advice=True)
        )
    return found


_READ_REMEDY: Final = (
    "Grant DescribeConfigs (and Describe) on the topics and on the cluster, or have an administrator look."
)


def _of_topic(settings: Settings, topic: Topic, seen: SeenTopic, *, brokers: int) -> list[Difference]:
    name, topics = settings.topics.name(topic), settings.topics
    found: list[Difference] = []

    def differ(says: str, remedy: str, **more: bool) -> None:
        found.append(Difference(name, f"{name} {says}", remedy, **more))

    wanted = topics.requests_partitions
    if topic is Topic.REQUESTS and seen.partitions < wanted:
        noun = "partition" if seen.partitions == 1 else "partitions"
        workers = "one worker at most has" if seen.partitions == 1 else f"{seen.partitions} workers at most have"
        differ(
            f"has {seen.partitions} {noun}, fewer than DARKROOM_TOPICS__REQUESTS_PARTITIONS ({wanted}): "
            f"{workers} work, however many KEDA starts",
            "Run `darkroom init --grow-partitions`, or lower the setting.",
        )
    if seen.replicas_min < topics.replication_factor:
        differ(
            f"has {seen.replicas_min} replicas, fewer than DARKROOM_TOPICS__REPLICATION_FACTOR "
            f"({topics.replication_factor})",
            "Add replicas with kafka-reassign-partitions, or lower the setting.",
            is_advice=True,
        )
    elif seen.replicas_min < min(brokers, REPLICAS_MIN):
        has = "one replica" if seen.replicas_min == 1 else f"{seen.replicas_min} replicas"
        follows = (
            "its records are gone with one broker's disk"
            if seen.replicas_min == 1
            else f"{REPLICAS_MIN} survive a broker that dies while another is restarted"
        )
        differ(
            f"has {has}, and the cluster {brokers} brokers: {follows}",
            "Add replicas with kafka-reassign-partitions; DARKROOM_TOPICS__REPLICATION_FACTOR is for topics to come.",
            is_advice=True,
        )
    config = seen.configuration
    untold = sorted(one for one in _TOPIC_CONFIGS if config.get(one) is None)
    if untold:
        differ(f"is not told all of: the broker keeps back {', '.join(untold)}", _READ_REMEDY, is_advice=True)
    if "compact" in _listed(config.get("cleanup.policy")):
        differ(f"has cleanup.policy=compact: it {_FORGOTTEN[topic]}", _alter(name, "cleanup.policy=delete"))
    found += _of_sizes(settings, topic, name, seen)
    if (config.get("unclean.leader.election.enable") or "false") == "true" and seen.replicas_min > 1:
        differ(
            "has unclean.leader.election.enable=true: records that were acknowledged can be lost when brokers fail",
            _alter(name, "unclean.leader.election.enable=false"),
            is_advice=True,
        )
    return found


def _of_sizes(settings: Settings, topic: Topic, name: str, seen: SeenTopic) -> list[Difference]:
    topics, numbers = settings.topics, _numbers(seen.configuration)
    found: list[Difference] = []
    needed = {
        Topic.REQUESTS: topics.max_message_bytes,
        Topic.DEAD_LETTERS: topics.max_message_bytes,
        Topic.COMPLETIONS: COMPLETION_BYTES_MAX,
    }.get(topic, 0)
    size = numbers.get("max.message.bytes")
    if size is not None and size < needed:
        follows = (
            "the broker refuses the largest requests"
            if topic is Topic.REQUESTS
            else "a worker cannot publish a larger one, and its partition stands"
        )
        says = f"{name} takes records of {size} bytes at most and {needed} are needed: {follows}"
        found.append(Difference(name, says, _alter(name, f"max.message.bytes={needed}")))
    kept_ms, wanted_ms = numbers.get("retention.ms"), retention_ms_of(topics, topic)
    if kept_ms is not None and 0 <= kept_ms < wanted_ms:
        says = (
            f"{name} keeps records for {_span(kept_ms)}, and {_RETENTION_SETTING[topic]} asks for {_span(wanted_ms)}: "
            "older ones are gone"
        )
        found.append(Difference(name, says, _alter(name, f"retention.ms={wanted_ms}")))
    kept_bytes = numbers.get("retention.bytes")
    if kept_bytes is not None and kept_bytes >= 0 and topic is not Topic.PROGRESS:
        says = f"{name} has retention.bytes={kept_bytes}: records beyond it are removed, however young they are"
        found.append(Difference(name, says, _alter(name, "retention.bytes=-1"), is_advice=True))
    in_sync = numbers.get("min.insync.replicas")
    if in_sync is not None and in_sync > seen.replicas_min:
        says = (
            f"{name} wants {in_sync} replicas in sync (min.insync.replicas) and has {seen.replicas_min}: "
            "nothing can be written to it"
        )
        remedy = _alter(name, f"min.insync.replicas={max(1, seen.replicas_min - 1)}")
        found.append(Difference(name, says, remedy, is_fatal=topic in _WRITTEN_BY_WORKERS))
    for config in _TIME_CONFIGS:
        apart_ms = numbers.get(config)
        if apart_ms is not None and 0 <= apart_ms < CLOCKS_APART_MS:
            says = f"{name} has {config}={apart_ms}: a producer whose clock is off by more than that is refused"
            found.append(Difference(name, says, _alter(name, f"{config}={CLOCKS_APART_MS}"), is_advice=True))
    return found


_RETENTION_SETTING: Final = {
    Topic.REQUESTS: "DARKROOM_TOPICS__REQUESTS_RETENTION_HOURS",
    Topic.COMPLETIONS: "DARKROOM_TOPICS__COMPLETIONS_RETENTION_HOURS",
    Topic.PROGRESS: "DARKROOM_TOPICS__PROGRESS_RETENTION_MINUTES",
    Topic.CANCELLATIONS: "DARKROOM_TOPICS__CANCELLATIONS_RETENTION_HOURS",
    Topic.DEAD_LETTERS: "DARKROOM_TOPICS__DEAD_LETTERS_RETENTION_HOURS",
}


def _of_cluster(kafka: KafkaSettings, configuration: Mapping[str, int]) -> list[Difference]:
    found: list[Difference] = []
    metadata = configuration.get("offset.metadata.max.bytes")
    if metadata is not None and metadata < OFFSET_METADATA_BYTES_MAX:
        says = (
            f"the brokers take {metadata} bytes of metadata beside an offset (offset.metadata.max.bytes), and a worker "
            f"writes up to {OFFSET_METADATA_BYTES_MAX}: a partition with much unfinished work stands"
        )
        remedy = f"Set offset.metadata.max.bytes={OFFSET_METADATA_BYTES_MAX} in the brokers' configuration."
        found.append(Difference("cluster", says, remedy))
    for config, setting, value in (
        ("transaction.max.timeout.ms", "DARKROOM_KAFKA__TRANSACTION_TIMEOUT_MS", kafka.transaction_timeout_ms),
        ("group.max.session.timeout.ms", "DARKROOM_KAFKA__SESSION_TIMEOUT_MS", kafka.session_timeout_ms),
    ):
        bound = configuration.get(config)
        if bound is not None and bound < value:
            says = f"{setting} is {value}, and the brokers allow {bound} ({config}): they turn workers away"
            found.append(
                Difference("cluster", says, f"Lower {setting}, or raise {config} at the brokers.", is_fatal=True)
            )
    return found


def _alter(topic: str, setting: str) -> str:
    return f"An administrator: kafka-configs --alter --entity-type topics --entity-name {topic} --add-config {setting}"


def _listed(value: str | None) -> set[str]:
    return {part.strip() for part in (value or "").split(",")}


def _numbers(configuration: Mapping[str, str | None]) -> dict[str, int]:
    return {name: int(text) for name, text in configuration.items() if text is not None and _is_number(text)}


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _span(milliseconds: int) -> str:
    """A length of time as people say it."""
    hours, minutes = milliseconds / 3_600_000, milliseconds / 60_000
    if hours >= 1:
        return f"{hours:g} hours"
    return f"{minutes:g} minutes" if minutes >= 1 else f"{milliseconds} ms"


# --- Reading ----------------------------------------------------------------------------------------------


async def _look(admin: Administrator, settings: Settings) -> SeenCluster:
    cluster = await admin.describe_cluster()
    brokers = [broker["node_id"] for broker in cluster["brokers"]]
    # All topics are asked for: a broker may make one that it is asked for by name.
    described = {one["topic"]: one for one in await admin.describe_topics() if one["error_code"] == 0}
    names = {settings.topics.name(topic): topic for topic in Topic}
    asked = [
        ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys((*_TOPIC_CONFIGS, *_TIME_CONFIGS)))
        for name in names
    ]
    topics: dict[Topic, SeenTopic] = {}
    unread: dict[str, str] = {}
    for response in await admin.describe_configs(asked):
        for code, _, _, name, entries in response.resources:
            topic, error = names[name], for_code(code)
            if error is UnknownTopicOrPartitionError:
                continue
            if code != 0:
                unread[topic.value] = _reason(error)
            partitions = described.get(name, {}).get("partitions", [])
            if not partitions:
                unread.setdefault(topic.value, "Kafka does not describe it")
                continue
            replicas = min(len(one["replicas"]) for one in partitions)
            configuration = {entry[0]: entry[1] for entry in entries} if code == 0 else _NOT_TOLD
            topics[topic] = SeenTopic(len(partitions), replicas, configuration)
    least, why = await _look_at_brokers(admin, brokers[:BROKERS_MAX])
    if why is not None:
        unread["cluster"] = why
    return SeenCluster(len(brokers), topics, least, unread)


_NOT_TOLD: Final[Mapping[str, str]] = dict.fromkeys(_TOPIC_CONFIGS, "")
"""In place of a configuration that could not be read at all: that is said once, by `SeenCluster.unread`."""


async def _look_at_brokers(admin: Administrator, brokers: Sequence[int]) -> tuple[dict[str, int], str | None]:
    """The least value of each setting, and why it is not known of all brokers."""
    asked = [ConfigResource(ConfigResourceType.BROKER, str(one), dict.fromkeys(_BROKER_CONFIGS)) for one in brokers]
    least: dict[str, int] = {}
    why: str | None = None
    answers = await asyncio.gather(*(admin.describe_configs([one]) for one in asked), return_exceptions=True)
    for answer in answers:
        if isinstance(answer, BaseException):
            if not isinstance(answer, KafkaError):
                raise answer
            why = f"a broker did not answer, {type(answer).__name__}"  # metadata names dead ones for a while
            continue
        for code, _, _, _, entries in answer[0].resources:
            if code != 0:
                why = _reason(for_code(code))
                continue
            for name, value in _numbers({entry[0]: entry[1] for entry in entries}).items():
                least[name] = min(value, least.get(name, value))
    return least, why


def _reason(error: type[Any]) -> str:
    if error is TopicAuthorizationFailedError or error.__name__ == "ClusterAuthorizationFailedError":
        return f"{error.__name__}: it needs the right DescribeConfigs"
    return error.__name__
