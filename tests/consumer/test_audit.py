"""Proves the audit against the real Kafka: what it counts, what it finds, that it never hangs and never cries wolf."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from click.testing import CliRunner

from darkroom.consumer.audit.audit import AuditReport, audit
from darkroom.consumer.cli import audit as audit_command
from darkroom.consumer.core.offset_map import encode_map
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.producer.client.client import Client
from darkroom.producer.kafka.connection import KafkaUnavailable, kafka_arguments
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.outcomes import completions
from darkroom.producer.outcomes.dead_letters import DeadLetter, Original, Reason, dead_letter
from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings
from tests.producer.answering import Answerer, answered_of, answering, rendered, source_of
from tests.producer.deployments import MakeSettings, deployment_on
from tests.producer.examples import NOON

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

KEYS = [
    "records", "succeeded", "failed", "expired", "cancelled", "erased", "dead_lettered", "replayed", "conflicts",
    "pending", "objects_erased",
    "missing", "duplicated", "objects_missing", "objects_corrupt", "erasures_unfinished",
]  # fmt: skip


@pytest.fixture
def make_settings(stack: Stack) -> MakeSettings:
    return deployment_on(stack.environment)


@pytest.fixture
async def settings(make_settings: MakeSettings) -> Settings:
    """A deployment with one partition of each topic, so that offsets are the order of sending."""
    made = make_settings(topics__requests_partitions=1, topics__completions_partitions=1)
    await ensure_topics(made)
    return made


@asynccontextmanager
async def requests_of(settings: Settings, count: int) -> AsyncIterator[tuple[Answerer, list[Any]]]:
    """So many requests sent, their records, and who can answer them."""
    async with Client(settings, follow=False) as client:
        for number in range(count):
            await client.send(GenerationRequest(request_id=f"r{number}", prompt="a dancer"))
    async with Answerer(settings) as answerer:
        yield answerer, await answerer.take(count)


async def audited(settings: Settings, *given: Completion, **arguments: Any) -> AuditReport:
    """The audit, over a store in which the pictures of `given` completions are."""
    objects = MemoryObjects(settings.s3.bucket, allowed_buckets=["darkroom"])
    for completion in given:
        for image in completion.images:
            objects.place(image.bucket, image.key, b"picture")
    return await audit(settings, objects, **arguments)


def died(record: Any, code: str = "invalid_request") -> DeadLetter:
    original = Original(source_of(record), record.key, record.value, record.headers)
    reason = Reason(code, "scripted", 0, "worker-0")
    return dead_letter(original, reason, request_id=None, bucket="darkroom", record_bytes_max=1_000_000)


def name(settings: Settings, offset: int) -> str:
    return f"{settings.topics.requests}-0-{offset}"


async def test_a_deployment_where_nothing_was_sent_is_clean(settings: Settings) -> None:
    report = await audited(settings)
    assert report.is_clean
    assert list(report.as_dict()) == KEYS
    assert report.as_dict() == {key: [] if key in KEYS[11:] else 0 for key in KEYS}


async def test_each_kind_of_outcome_is_counted(settings: Settings) -> None:
    async with requests_of(settings, 8) as (answerer, records):
        first = rendered(records[0])
        outcomes: list[Completion | DeadLetter] = [
            first,
            completions.failed(answered_of(records[1]), "render_failed", "black", completed_at=NOON),
            completions.expired(answered_of(records[2]), completed_at=NOON),
            completions.cancelled(answered_of(records[3]), completed_at=NOON),
            completions.for_record(first, answered_of(records[4], request_digest=first.request_digest), now=NOON),
            completions.for_record(first, answered_of(records[5]), now=NOON),
            died(records[6]),
        ]
        await answerer.publish(outcomes, offsets={0: (7, "")})
        report = await audited(settings, first)
    assert report.is_clean, report
    assert report.as_dict() == {
        "records": 8, "succeeded": 2, "failed": 2, "expired": 1, "cancelled": 1, "erased": 0, "dead_lettered": 1,
        "replayed": 1, "conflicts": 1, "pending": 1, "missing": [], "duplicated": [], "objects_missing": [],
        "objects_corrupt": [], "objects_erased": 0, "erasures_unfinished": [],
    }  # fmt: skip


async def test_what_is_committed_without_an_outcome_is_missing(settings: Settings) -> None:
    async with requests_of(settings, 3) as (answerer, records):
        await answerer.publish([rendered(records[1])], offsets={0: (2, "")})
        report = await audited(settings, rendered(records[1]))
    assert report.missing == [name(settings, 0)]
    assert report.pending == 1
    assert not report.is_clean


async def test_the_map_of_a_commit_counts_and_one_that_does_not_verify_does_not(settings: Settings) -> None:
    partition = PartitionKey(settings.topics.requests, 0)
    async with requests_of(settings, 4) as (answerer, records):
        await answerer.publish([rendered(records[2])], offsets={0: (0, encode_map(partition, 0, [2, 3]))})
        report = await audited(settings, rendered(records[2]))
        assert (report.missing, report.pending) == ([name(settings, 3)], 2)
        await answerer.publish(offsets={0: (0, encode_map(partition, 1, [2, 3]))})  # a map of another offset
        report = await audited(settings, rendered(records[2]))
        assert (report.missing, report.pending) == ([], 3)


async def test_what_is_answered_twice_is_duplicated(settings: Settings) -> None:
    async with requests_of(settings, 4) as (answerer, records):
        done = [rendered(record) for record in records]
        crash = completions.failed(answered_of(records[2]), "worker_crash", "", completed_at=NOON)
        twice = [done[0], done[0].model_copy(update={"worker": "another"})]
        await answerer.publish([*twice, done[1], died(records[1]), crash, died(records[2], "worker_crash"), done[3]])
        report = await audited(settings, *done)
    assert report.duplicated == [name(settings, 0), name(settings, 1)]
    assert (report.succeeded, report.failed, report.dead_lettered, report.pending) == (3, 1, 2, 0)


async def test_what_was_aborted_is_neither_record_nor_outcome_and_holds_up_nothing(settings: Settings) -> None:
    async with requests_of(settings, 1) as (answerer, (record,)):
        stray = AIOKafkaProducer(**kafka_arguments(settings.kafka), transactional_id=settings.kafka.group_id)
        await stray.start()
        for _ in range(2):  # as a requester that sends in transactions: records, markers, and nothing behind them
            await stray.begin_transaction()
            await stray.send_and_wait(settings.topics.requests, b"{}", key=b"aborted")
            await stray.abort_transaction()
        await stray.stop()
        await answerer.publish([rendered(record)], abort=True)
        await answerer.publish([rendered(record)], offsets={0: (5, "")})
        await answerer.publish([rendered(record)], abort=True)
        report = await asyncio.wait_for(audited(settings, rendered(record)), 30)
    assert (report.records, report.succeeded) == (1, 1)
    assert report.is_clean


async def test_records_that_retention_removed_are_not_counted(settings: Settings) -> None:
    async with requests_of(settings, 3) as (answerer, records):
        done = [rendered(record) for record in records]
        await answerer.publish([*done, done[0]], offsets={0: (3, "")})
        admin = AIOKafkaAdminClient(**kafka_arguments(settings.kafka))
        await admin.start()
        await admin.delete_records({TopicPartition(settings.topics.requests, 0): RecordsToDelete(before_offset=2)})
        await admin.close()
        report = await audited(settings, *done)
    assert (report.records, report.succeeded, report.missing) == (1, 1, [])
    assert report.duplicated == [name(settings, 0)]  # wrong all the same


async def test_an_outcome_hidden_by_anothers_open_transaction_is_waited_for(settings: Settings) -> None:
    async with (
        requests_of(settings, 2) as (answerer, records),
        Answerer(settings, transactional_id=f"{settings.kafka.group_id}-slow") as slow,
    ):
        await slow.begin([rendered(records[0])])
        await answerer.publish([rendered(records[1])], offsets={0: (0, _map_of(settings, [1]))})
        auditing = asyncio.create_task(audited(settings, *map(rendered, records)))
        await asyncio.sleep(1.0)
        assert not auditing.done()
        await slow.writer.commit_transaction()
        report = await auditing
    assert report.is_clean, report
    assert (report.succeeded, report.pending) == (2, 0)


async def test_a_transaction_that_never_ends_is_not_waited_for_without_end(settings: Settings) -> None:
    async with requests_of(settings, 2) as (answerer, records):
        await answerer.publish([rendered(records[0])])
        async with Answerer(settings, transactional_id=f"{settings.kafka.group_id}-stuck") as stuck:
            await stuck.begin([rendered(records[1])])
            report = await asyncio.wait_for(audited(settings, rendered(records[0]), settle_s=1.0), 20)
            await stuck.writer.abort_transaction()
    assert (report.succeeded, report.pending) == (1, 1)


async def test_pictures_are_read_and_held_against_their_digests(settings: Settings) -> None:
    async with requests_of(settings, 4) as (answerer, records):
        good, gone, other, larger = [rendered(record) for record in records]
        await answerer.publish([good, gone, other, larger])
        objects = MemoryObjects("darkroom")
        for completion, content in ((good, b"picture"), (other, b"another"), (larger, b"a larger one")):
            await objects.put(completion.images[0].key, content, "image/png")
        report = await audit(settings, objects)
    assert report.objects_missing == [f"darkroom/{gone.images[0].key}"]
    assert sorted(report.objects_corrupt) == sorted(f"darkroom/{one.images[0].key}" for one in (other, larger))


async def test_pictures_past_their_retention_are_not_missing(settings: Settings) -> None:
    async with requests_of(settings, 2) as (answerer, records):
        old, recent = [rendered(record) for record in records]
        old = old.model_copy(update={"completed_at": datetime.now(UTC) - timedelta(days=31)})
        await answerer.publish([old, recent])
        report = await audited(settings)
    assert report.objects_missing == [f"darkroom/{recent.images[0].key}"]


async def test_a_picture_that_many_completions_name_is_read_once(settings: Settings) -> None:
    class Counting(MemoryObjects):
        reads = 0

        async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
            self.reads += not key.endswith("result.json")
            return await super().get(key, bucket=bucket, bytes_max=bytes_max)

    async with requests_of(settings, 3) as (answerer, records):
        first = rendered(records[0])
        replays = [
            completions.for_record(first, answered_of(record, request_digest=first.request_digest), now=NOON)
            for record in records[1:]
        ]
        await answerer.publish([first, *replays])
        objects = Counting("darkroom")
        report = await audit(settings, objects)
    assert objects.reads == 1
    assert len(report.objects_missing) == 1


async def test_a_store_that_is_away_is_no_finding(settings: Settings) -> None:
    class Away(MemoryObjects):
        async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
            raise StoreUnavailable("scripted")

    async with requests_of(settings, 1) as (answerer, (record,)):
        await answerer.publish([rendered(record)])
        with pytest.raises(StoreUnavailable, match="scripted"):
            await audit(settings, Away("darkroom"))


async def test_while_work_goes_on_nothing_is_ever_missing(make_settings: MakeSettings) -> None:
    settings = make_settings()
    await ensure_topics(settings)
    objects = MemoryObjects("darkroom")
    picture = b"picture"

    def answer(record: Any) -> Completion:
        completion = rendered(record)
        objects.place("darkroom", completion.images[0].key, picture)
        return completion

    async with answering(settings, answer), Client(settings) as client:
        ids: list[str] = []
        for round_ in range(6):
            ids += await client.send([GenerationRequest(request_id=f"r{round_}-{n}", prompt="x") for n in range(15)])
            report = await audit(settings, objects)
            assert report.is_clean, report
            assert report.records == len(ids)
            assert report.succeeded + report.pending == len(ids)
        assert len(await client.wait(ids, timeout_s=30)) == len(ids)
        report = await audit(settings, objects)
    assert (report.succeeded, report.pending) == (len(ids), 0)


async def test_topics_that_are_not_there_are_an_error(make_settings: MakeSettings) -> None:
    with pytest.raises(KafkaUnavailable, match=r"does not have the topic .*generation\.requests"):
        await audited(make_settings())


def test_the_command_prints_one_object_and_exits_by_what_it_found(make_settings: MakeSettings, stack: Stack) -> None:
    settings = make_settings(topics__requests_partitions=1, topics__completions_partitions=1)
    environment = {
        **stack.environment,
        "DARKROOM_TOPICS__PREFIX": settings.topics.prefix,
        "DARKROOM_KAFKA__GROUP_ID": settings.kafka.group_id,
        "DARKROOM_S3__BUCKET": settings.s3.bucket,
    }

    async def prepare() -> None:
        await ensure_topics(settings)
        async with MinioObjects(settings.s3) as objects, requests_of(settings, 1) as (answerer, (record,)):
            await objects.ensure_bucket(1)
            completion = rendered(record)
            image = completion.images[0].model_copy(update={"bucket": settings.s3.bucket})
            completion = completion.model_copy(update={"images": (image,)})
            await objects.put(image.key, b"picture", "image/png")
            await answerer.publish([completion], offsets={0: (1, "")})

    async def lose_a_record() -> None:
        async with requests_of(settings, 1) as (answerer, _):
            await answerer.publish(offsets={0: (2, "")})

    asyncio.run(prepare())
    clean = CliRunner().invoke(audit_command.audit, ["--json"], env=environment)
    assert clean.exit_code == 0, clean.stderr
    (line,) = clean.stdout.splitlines()
    assert list(json.loads(line)) == KEYS
    assert json.loads(line)["succeeded"] == 1
    asyncio.run(lose_a_record())
    wrong = CliRunner().invoke(audit_command.audit, [], env=environment)
    assert wrong.exit_code == 1
    assert json.loads(wrong.stdout)["missing"] == [name(settings, 1)]
    assert f"1 records have no outcome although they are committed, such as {name(settings, 1)}" in wrong.stderr
    away = CliRunner().invoke(
        audit_command.audit, env={**environment, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    )
    assert (away.exit_code, away.stdout) == (1, "")
    assert away.stderr.startswith("Error: Kafka at 127.0.0.1:1")


def _map_of(settings: Settings, finished: list[int]) -> str:
    return encode_map(PartitionKey(settings.topics.requests, 0), 0, finished)
