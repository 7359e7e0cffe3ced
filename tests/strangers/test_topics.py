"""Topics as administrators, tools and brokers make them: each difference is said with its remedy, none is touched."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from click.testing import CliRunner

from darkroom import main
from darkroom.consumer.core.offset_map import METADATA_CHARS_MAX
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.topic_checks import SeenCluster, SeenTopic, compare_topics, differences
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.names import OFFSET_METADATA_BYTES_MAX, Topic
from darkroom.schemas.settings import Settings, load_settings
from tests.integration.fleet import Fleet, wait_until
from tests.integration.gateways import GatewayProcess
from tests.strangers.table import Stranger, rows

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack


@contextlib.asynccontextmanager
async def administrator(settings: Settings) -> Any:
    """Somebody who makes topics, and not with Darkroom."""
    admin = AIOKafkaAdminClient(**kafka_arguments(settings.kafka))
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


async def make(settings: Settings, topic: Topic, partitions: int, configuration: Mapping[str, str]) -> None:
    name = settings.topics.name(topic)
    async with administrator(settings) as admin:
        made = await admin.create_topics([NewTopic(name, partitions, 1, topic_configs=dict(configuration))])
    assert [code for _, code, *_ in made.topic_errors] == [0], made


async def everything_of(settings: Settings) -> dict[str, Any]:
    """Partitions and configuration, with where each value comes from, of all topics of the deployment."""
    names = [settings.topics.name(topic) for topic in Topic]
    async with administrator(settings) as admin:
        described = {one["topic"]: len(one["partitions"]) for one in await admin.describe_topics()}
        found = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in names])
    configs = {name: sorted(entries) for response in found for _, _, _, name, entries in response.resources}
    return {name: (described.get(name), configs.get(name)) for name in names}


TOPICS = [
    Stranger(
        "requests-with-one-partition",
        "Apache Kafka 4.3 auto.create.topics.enable",
        (Topic.REQUESTS, 1, {}),
        (
            "has 1 partition, fewer than DARKROOM_TOPICS__REQUESTS_PARTITIONS (12): one worker at most has work",
            "darkroom init --grow-partitions",
        ),
    ),
    Stranger(
        "compacted-completions",
        "Apache Kafka 4.3 kafka-topics --config cleanup.policy=compact",
        (Topic.COMPLETIONS, 12, {"cleanup.policy": "compact"}),
        ("cleanup.policy=compact: it forgets all outcomes of a request id but the last", "cleanup.policy=delete"),
    ),
    Stranger(
        "requests-compacted-and-deleted",
        "Strimzi 0.49 KafkaTopic",
        (Topic.REQUESTS, 12, {"cleanup.policy": "compact,delete"}),
        ("it forgets a request whose id is sent again", "cleanup.policy=delete"),
    ),
    Stranger(
        "small-dead-letters",
        "Apache Kafka 4.3 defaults",
        (Topic.DEAD_LETTERS, 12, {"max.message.bytes": "1048588"}),
        ("takes records of 1048588 bytes at most and 1179648 are needed", "max.message.bytes=1179648"),
    ),
    Stranger(
        "small-requests",
        "Amazon MSK 4.1 message.max.bytes",
        (Topic.REQUESTS, 12, {"max.message.bytes": "100000"}),
        ("the broker refuses the largest requests", "max.message.bytes=1179648"),
    ),
    Stranger(
        "requests-for-an-hour",
        "Apache Kafka 4.3 kafka-topics --config retention.ms",
        (Topic.REQUESTS, 12, {"retention.ms": "3600000"}),
        (
            "keeps records for 1 hours, and DARKROOM_TOPICS__REQUESTS_RETENTION_HOURS asks for 168 hours",
            "retention.ms=",
        ),
    ),
    Stranger(
        "requests-up-to-a-size",
        "Redpanda Console 3.1",
        (Topic.REQUESTS, 12, {"retention.bytes": "1000000"}),
        ("records beyond it are removed", "retention.bytes=-1"),
    ),
    Stranger(
        "clocks-of-a-minute",
        "Apache Kafka 4.3 message.timestamp.before.max.ms",
        (Topic.REQUESTS, 12, {"message.timestamp.before.max.ms": "60000"}),
        ("a producer whose clock is off by more than that is refused", "message.timestamp.before.max.ms="),
    ),
    Stranger(
        "completions-that-nobody-can-write",
        "Terraform kafka provider 0.13 min.insync.replicas",
        (Topic.COMPLETIONS, 12, {"min.insync.replicas": "2"}),
        ("wants 2 replicas in sync (min.insync.replicas) and has 1: nothing can be written", "min.insync.replicas=1"),
    ),
]


@pytest.mark.stack
@pytest.mark.parametrize("row", rows(TOPICS))
async def test_what_is_not_as_the_settings_need_it_is_said(
    row: Stranger[tuple[Topic, int, dict[str, str]], tuple[str, str]], stack: Stack, tmp_path: Path
) -> None:
    settings = Fleet(stack.environment, tmp_path).settings
    topic, partitions, configuration = row.given
    await make(settings, topic, partitions, configuration)
    await ensure_topics(settings)
    says, remedy = row.right
    found = [one for one in (await compare_topics(settings))[1] if one.subject == settings.topics.name(topic)]
    assert [one for one in found if says in one.says and remedy in one.remedy], found


@pytest.mark.stack
async def test_topics_that_darkroom_made_are_as_it_needs_them(stack: Stack, tmp_path: Path) -> None:
    settings = Fleet(stack.environment, tmp_path).settings
    seen, found = await compare_topics(settings)
    assert (seen.missing(), found) == (tuple(Topic), [])
    await ensure_topics(settings)
    seen, found = await compare_topics(settings)
    assert (seen.missing(), found) == ((), [])


@pytest.mark.stack
def test_doctor_worker_and_init_say_it_and_nothing_foreign_is_changed(stack: Stack, tmp_path: Path) -> None:
    """The broker's defaults throughout, as when a producer came first; then the partitions are grown on request."""
    fleet = Fleet(stack.environment, tmp_path)
    settings = fleet.settings
    for topic in Topic:
        policy = {"cleanup.policy": "compact"} if topic is Topic.COMPLETIONS else {}
        asyncio.run(make(settings, topic, 1, policy))
    before = asyncio.run(everything_of(settings))
    worker = fleet.start("--simulated-device", "0")
    try:
        worker.wait_ready()
        lines = worker.events("not as the settings need it")
    finally:
        fleet.stop()
    told = " ".join(line["says"] for line in lines if line["level"] == "warning")
    environment = {**fleet.environment, "DARKROOM_SIMULATED__STEP_MS": "0"}
    doctor = json.loads(CliRunner().invoke(main, ["doctor", "--json"], env=environment).stdout)["topics"]
    init = CliRunner().invoke(main, ["init"], env=environment)
    assert init.exit_code == 0
    assert not doctor["passed"]
    for said in (told, " ".join(doctor["notes"]), init.stderr):
        assert "has 1 partition, fewer than DARKROOM_TOPICS__REQUESTS_PARTITIONS (12)" in said
        assert "one worker at most has work" in said
        assert "has cleanup.policy=compact: it forgets all outcomes" in said
    assert "darkroom init --grow-partitions" in " ".join(doctor["notes"])
    assert asyncio.run(everything_of(settings)) == before
    grown = CliRunner().invoke(main, ["init", "--grow-partitions", "--json"], env=environment)
    assert json.loads(grown.stdout)["partitions"] == 12
    assert "fewer than" not in str(json.loads(grown.stdout)["differences"])
    after = asyncio.run(everything_of(settings))
    name = settings.topics.requests
    assert after == {**before, name: (12, before[name][1])}, "a configuration was written"


@pytest.mark.stack
def test_a_worker_that_could_publish_nothing_does_not_start(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path)
    asyncio.run(make(fleet.settings, Topic.COMPLETIONS, 1, {"min.insync.replicas": "3"}))
    worker = fleet.start("--simulated-device", "0")
    wait_until(lambda: worker.process.poll() is not None, 60, "the worker to end")
    assert worker.process.returncode == 1
    said = worker.log.read_text()
    assert "nothing can be written to it" in said
    assert "Traceback" not in said


@pytest.fixture
def generous_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A broker that makes a topic for whoever asks for it, as Kafka's brokers do by default."""
    from darkroom.consumer.stack import Stack, kafka

    properties = kafka._PROPERTIES.replace("auto.create.topics.enable=false\nnum.partitions=12", "num.partitions=1")
    assert "auto.create" not in properties
    monkeypatch.setattr(kafka, "_PROPERTIES", properties)
    stack = Stack(tmp_path / "stack")
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


@pytest.mark.stack
def test_looking_at_topics_makes_none(generous_stack: Stack, tmp_path: Path) -> None:
    """What comes before the first worker, and only looks, would have them made as nobody wants them."""
    fleet = Fleet(generous_stack.environment, tmp_path)
    environment = {**fleet.environment, "DARKROOM_SIMULATED__STEP_MS": "0"}
    for command in (["doctor"], ["audit"], ["dlq", "list"]):
        CliRunner().invoke(main, command, env=environment)
    found = asyncio.run(everything_of(fleet.settings))
    assert {partitions for partitions, _ in found.values()} == {None}
    gateway = GatewayProcess(fleet.environment, tmp_path, "gateway")
    try:
        gateway.wait_ready()
    finally:
        gateway.kill()
    found = asyncio.run(everything_of(fleet.settings))
    assert {partitions for partitions, _ in found.values()} == {12}


# --- What the stack's one broker cannot be ------------------------------------------------------------------

SOUND = {
    "cleanup.policy": "delete",
    "max.message.bytes": "2000000",
    "min.insync.replicas": "1",
    "retention.bytes": "-1",
    "retention.ms": "-1",
    "unclean.leader.election.enable": "false",
}


def told_of(seen: SeenCluster, **environment: str) -> list[str]:
    return [one.says for one in differences(load_settings(environ=environment), seen)]


def requests_of(replicas: int = 1, brokers: int = 1, **configuration: str | None) -> SeenCluster:
    config = {**SOUND, **{name.replace("_", "."): value for name, value in configuration.items()}}
    return SeenCluster(brokers, {Topic.REQUESTS: SeenTopic(12, replicas, config)})


def test_one_replica_on_several_brokers_is_advised_against() -> None:
    assert told_of(requests_of()) == []
    assert "has one replica, and the cluster 3 brokers" in told_of(requests_of(brokers=3))[0]
    assert (
        "DARKROOM_TOPICS__REPLICATION_FACTOR (3)" in told_of(requests_of(), DARKROOM_TOPICS__REPLICATION_FACTOR="3")[0]
    )


def test_unclean_elections_are_advised_against_where_there_is_something_to_elect() -> None:
    assert told_of(requests_of(unclean_leader_election_enable="true")) == []
    assert "can be lost" in told_of(requests_of(3, 3, unclean_leader_election_enable="true"))[0]


@pytest.mark.parametrize(
    ("configuration", "says"),
    [
        ({"offset.metadata.max.bytes": 1024}, "a worker writes up to 4096"),
        ({"transaction.max.timeout.ms": 10_000}, "DARKROOM_KAFKA__TRANSACTION_TIMEOUT_MS is 12000"),
        ({"group.max.session.timeout.ms": 10_000}, "DARKROOM_KAFKA__SESSION_TIMEOUT_MS is 15000"),
    ],
)
def test_brokers_that_allow_less_than_a_worker_needs(configuration: dict[str, int], says: str) -> None:
    assert says in told_of(SeenCluster(1, {}, configuration))[0]


def test_a_worker_writes_as_much_beside_an_offset_as_is_compared() -> None:
    assert METADATA_CHARS_MAX == OFFSET_METADATA_BYTES_MAX


def test_what_cannot_be_read_is_said_to_be_unknown() -> None:
    """An answer that is absent is not a sound one."""
    unread = SeenCluster(1, {}, {}, {Topic.REQUESTS.value: "TopicAuthorizationFailedError", "cluster": "no right"})
    assert unread.missing() == tuple(topic for topic in Topic if topic is not Topic.REQUESTS)
    told = told_of(unread)
    assert len(told) == 2
    assert all("could not be read" in one and "not compared" in one for one in told)
    kept_back = told_of(requests_of(cleanup_policy=None))
    assert "keeps back cleanup.policy" in kept_back[0]
