"""Proves that what a broker refuses for good is said at once, passed where it can be, and published once it may be."""

from __future__ import annotations

import asyncio
import json
import os
import re
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from click.testing import CliRunner

from darkroom import main
from darkroom.consumer.core.events import Refusal
from darkroom.consumer.core.offset_map import METADATA_CHARS_MAX
from darkroom.consumer.worker.worker import Worker
from darkroom.inference.engine import LaneEngine
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.outcomes.dead_letter_log import DeadLetterLog
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Status
from darkroom.schemas.rights import Role
from tests.cluster import roles
from tests.cluster.brokers import AUTHORIZED, Brokers
from tests.cluster.rights import GROUP, READ, TOPIC, WRITE, taken_away
from tests.integration.by_hand import CountingDevice, admin, until_no_lag
from tests.integration.fleet import until
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from pathlib import Path

    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

METADATA_BYTES_MAX = 260


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    properties = {**AUTHORIZED, "offset.metadata.max.bytes": str(METADATA_BYTES_MAX)}
    with Brokers(tmp_path_factory.mktemp("brokers"), properties=properties) as started:
        yield started


@pytest.fixture
def environment(stack: Stack, brokers: Brokers) -> dict[str, str]:
    return {**stack.environment, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.bootstrap_servers}


def request(**fields: Any) -> bytes:
    return json.dumps({"request_id": f"r-{uuid.uuid4().hex}", "prompt": "a figure", "steps": 2, **fields}).encode()


def sample(worker: Worker, name: str, **labels: str) -> float:
    value = worker.metrics.registry.get_sample_value(name, labels)
    assert value is not None
    return value


async def test_a_letter_larger_than_its_topic_goes_to_the_store_and_holds_nobody_up(
    environment: dict[str, str],
) -> None:
    settings = deployment_on(environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    async with admin(settings) as administrator:
        small = ConfigResource(ConfigResourceType.TOPIC, settings.topics.dead_letters, {"max.message.bytes": "10000"})
        await administrator.alter_configs([small])
    large, good = b"not JSON" * 8_000, request()
    engine = LaneEngine(CountingDevice(), rows_max=8)
    async with running_worker(settings, engine), Producer(settings) as producer:
        first = await producer.put(large, key=None)
        second = await producer.put(good)
        answers = await producer.answers({first, second})
        assert [one.status for one in answers[second]] == [Status.SUCCEEDED]
        assert len(answers[first]) == 1
        assert len(answers[first][0].value) < 1_000
        await until_no_lag(settings)
        async with MinioObjects(settings.s3) as objects, DeadLetterLog(settings, objects) as letters:
            (letter,) = await letters.letters()
            assert letter.is_stored
            assert (await letters.original(letter)).value == large


async def test_with_less_metadata_than_kafka_s_default_everything_is_published_once(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("darkroom.consumer.worker.worker.PREPARE_AHEAD_ROWS", 64)
    settings = deployment_on(environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    engine = LaneEngine(CountingDevice(step_ms=50), rows_max=8)
    async with running_worker(settings, engine) as worker, Producer(settings) as producer:
        places = {await producer.put(request(priority=number % 10, steps=1 + number % 5)) for number in range(200)}
        answers = await producer.answers(places)
        assert all(len(found) == 1 for found in answers.values())
        assert {found[0].status for found in answers.values()} == {Status.SUCCEEDED}
        await until_no_lag(settings)
        (partition,) = worker.driver._core.partitions.values()
        assert partition.metadata_chars_max < METADATA_CHARS_MAX
        assert worker.driver.refusals == {}


@pytest.mark.parametrize(
    ("resource", "name", "operation", "says"),
    [
        (TOPIC, "{prefix}generation.completions", WRITE, r"user ANONYMOUS lacks Write on the topic \S+completions\."),
        (GROUP, "{group}", READ, r"user ANONYMOUS lacks Read on the group \S+\."),
        (TOPIC, "{prefix}generation.requests", READ, r"user ANONYMOUS lacks Read on the topic \S+requests\."),
    ],
)
async def test_a_right_that_is_taken_away_is_named_and_the_request_is_answered_when_it_is_back(
    environment: dict[str, str], resource: int, name: str, operation: int, says: str
) -> None:
    settings = deployment_on(environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    device = CountingDevice(step_ms=200)
    name = name.format(prefix=settings.topics.prefix, group=settings.kafka.group_id)
    engine = LaneEngine(device, rows_max=8)
    async with running_worker(settings, engine) as worker, Producer(settings) as producer:
        place = await producer.put(request(steps=8))
        await until(lambda: bool(worker.payloads), 30, "the record to be taken")
        async with taken_away(settings.kafka.bootstrap_servers, resource, name, operation):
            await until(lambda: bool(worker.driver.refusals), 30, "the publication to be refused")
            (refused,) = worker.driver.refusals.values()
            assert refused.refusal is Refusal.RIGHTS
            assert sample(worker, "darkroom_publications_refused_total", reason="rights") >= 1
            published_at = sample(worker, "darkroom_last_publication_timestamp_seconds")
            ready = worker._ready()
            assert not ready.well
            assert any(re.search(says, reason) for reason in ready.reasons), ready.reasons
        answers = await producer.answers({place})
        assert [one.status for one in answers[place]] == [Status.SUCCEEDED]
        await until(lambda: worker._ready().well, 30, "readiness to come back")
        assert sample(worker, "darkroom_last_publication_timestamp_seconds") > published_at


async def test_doctor_says_which_partition_cannot_publish(environment: dict[str, str], tmp_path: Path) -> None:
    settings = deployment_on(environment)(topics__requests_partitions=1)
    topics, kafka = settings.topics, settings.kafka
    own = {
        **os.environ,
        **environment,
        "DARKROOM_TOPICS__PREFIX": topics.prefix,
        "DARKROOM_KAFKA__GROUP_ID": kafka.group_id,
        "DARKROOM_S3__BUCKET": settings.s3.bucket,
        "DARKROOM_SIMULATED__STEP_MS": "1",
    }
    await ensure_topics(settings)
    with roles.serving(Role.WORKER, own, tmp_path) as (process, port, out):
        await asyncio.to_thread(roles.wait_until_ready, process, port, out)
        asked = own | {"DARKROOM_WORKER__METRICS_PORT": str(port)}
        async with (
            taken_away(kafka.bootstrap_servers, TOPIC, topics.completions, WRITE),
            Producer(settings) as producer,
        ):
            await producer.put(request())
            await until(lambda: "publication refused" in out.read_text(), 30, "the publication to be refused")
            done = await asyncio.to_thread(CliRunner().invoke, main, ["doctor", "--json"], env=asked)
            told = json.loads(done.stdout)["worker"]
            assert not told["passed"]
            assert any("Partition 0 of" in note and "lacks Write" in note for note in told["notes"]), told
