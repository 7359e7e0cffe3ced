"""Proves the Python client against the real Kafka: what is sent arrives once, and no outcome of it is missed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from pydantic import ValidationError

from darkroom.producer.client.client import SEND_AHEAD_MAX, Client, SendInterrupted
from darkroom.producer.kafka.connection import KafkaUnavailable, kafka_arguments
from darkroom.producer.kafka.reader import TopicReader
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.pose import InlinePicture, SkeletonPose
from darkroom.schemas.events.progress import Progress
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings, load_settings
from darkroom.schemas.wire.codec import decode_cancellation, decode_request
from tests.producer.answering import Answerer, answering, rendered

if TYPE_CHECKING:
    from tests.producer.deployments import MakeSettings

pytestmark = pytest.mark.stack


def request(name: str, **fields: Any) -> GenerationRequest:
    return GenerationRequest(request_id=name, prompt="a dancer on a stage", **fields)


def several(count: int, start: int = 0) -> list[GenerationRequest]:
    return [request(f"many-{number}") for number in range(start, start + count)]


@pytest.fixture
async def deployment(settings: Settings) -> Settings:
    """Settings whose topics exist."""
    await ensure_topics(settings)
    return settings


async def read_all(settings: Settings, topic: str) -> list[Any]:
    async with TopicReader(settings.kafka, (topic,)) as reader:
        ends, begin = await reader.stable_ends(), await reader.beginnings()
        reader.start_at(begin)
        records: list[Any] = []
        while len(records) < sum(ends.values()) - sum(begin.values()):
            records += await reader.read(5)
        return records


async def test_a_request_arrives_as_an_event_keyed_by_its_id(deployment: Settings) -> None:
    sent = request("hello-1", tenant="studio", seed=7, labels={"a": "b"})
    before = datetime.now(UTC)
    async with Client(deployment) as client:
        assert await client.send(sent, traceparent=f"00-{'a' * 32}-{'b' * 16}-01") == ["hello-1"]
    (record,) = await read_all(deployment, deployment.topics.requests)
    decoded = decode_request(record.value, record.headers, record.key)
    assert decoded.request == sent
    assert record.key == b"hello-1"
    assert decoded.warnings == ()
    assert decoded.event_id
    assert decoded.traceparent == f"00-{'a' * 32}-{'b' * 16}-01"
    assert decoded.requested_at is not None
    assert before <= decoded.requested_at <= datetime.now(UTC)


async def test_many_requests_arrive_once_each_and_their_ids_come_back_in_order(deployment: Settings) -> None:
    count = 2 * SEND_AHEAD_MAX + 10
    async with Client(deployment, follow=False) as client:
        ids = await client.send(one for one in several(count))
    assert ids == [f"many-{number}" for number in range(count)]
    records = await read_all(deployment, deployment.topics.requests)
    assert sorted(record.key.decode() for record in records) == sorted(ids)


async def test_waiting_finds_what_was_answered_before_and_what_comes_later(deployment: Settings) -> None:
    async with Client(deployment) as client, answering(deployment):
        first = await client.send(several(3))
        await _until_answered(deployment, 3)  # long before anybody waits
        found = await client.wait(first, timeout_s=20)
        assert sorted(found) == first
        assert all(isinstance(completion, Completion) for completion in found.values())
        second = await client.send(several(2, start=3))
        assert sorted(await client.wait([*first, *second], timeout_s=20)) == [*first, *second]


async def test_several_tasks_wait_at_once_and_each_gets_its_own(deployment: Settings) -> None:
    async with Client(deployment) as client, answering(deployment):
        ids = await client.send(several(6))
        found = await asyncio.gather(*(client.wait([one], timeout_s=20) for one in ids))
        assert [list(one) for one in found] == [[one] for one in ids]


async def test_waiting_ends_in_time_with_what_there_is(deployment: Settings) -> None:
    async with Client(deployment) as client, answering(deployment, lambda record: _unless(record, "many-1")):
        ids = await client.send(several(3))
        started = time.monotonic()
        found = await client.wait(ids, timeout_s=2.0)
        assert sorted(found) == ["many-0", "many-2"]
        assert 1.9 < time.monotonic() - started < 10


async def test_one_tenants_outcome_is_not_anothers(deployment: Settings) -> None:
    async with Client(deployment) as client, Answerer(deployment) as answerer:
        await client.send([request("same", tenant="one"), request("same", tenant="two")])
        records = await answerer.take(2)
        by_tenant = {completion.tenant: completion for completion in map(rendered, records)}
        await answerer.publish([by_tenant["one"]])
        assert await client.wait(["same"], timeout_s=1, tenant="two") == {}
        assert (await client.wait(["same"], timeout_s=20, tenant="one"))["same"].tenant == "one"
        await answerer.publish([by_tenant["two"]])
        # Without a tenant it is the one under which this client sent the id last.
        assert (await client.wait(["same"], timeout_s=20))["same"].tenant == "two"


async def test_completions_are_those_since_the_start_or_all(deployment: Settings) -> None:
    async with Answerer(deployment) as answerer:
        async with Client(deployment) as client:
            await client.send(several(2))
            await answerer.publish([rendered(record) for record in await answerer.take(2)])
        async with Client(deployment) as client:
            await client.send(request("later"))
            await answerer.publish([rendered(record) for record in await answerer.take(1)])
            assert [one.request_id for one in await _first(client.completions(), 1)] == ["later"]
            everything = await _first(client.completions(from_beginning=True), 3)
            assert {one.request_id for one in everything} == {"many-0", "many-1", "later"}


async def test_what_was_aborted_is_never_seen(deployment: Settings) -> None:
    async with Client(deployment) as client, Answerer(deployment) as answerer:
        ids = await client.send(several(2))
        aborted, committed = map(rendered, await answerer.take(2))
        await answerer.publish([aborted], abort=True)
        await answerer.publish([committed])
        found = await client.wait(ids, timeout_s=2)
        assert list(found) == [committed.request_id]


async def test_a_record_that_is_no_completion_is_passed_over_and_logged(
    deployment: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with Client(deployment) as client, Answerer(deployment) as answerer:
        await client.send(request("hello-1"))
        (record,) = await answerer.take(1)
        stray = AIOKafkaProducer(**kafka_arguments(deployment.kafka))
        await stray.start()
        for partition in range(2):
            await stray.send_and_wait(deployment.topics.completions, b"no completion", partition=partition)
        await stray.stop()
        await answerer.publish([rendered(record)])
        assert list(await client.wait(["hello-1"], timeout_s=20)) == ["hello-1"]
    assert caplog.text.count(f"passed over {deployment.topics.completions}-") == 1, "a line a minute"


def progress_event(name: str, steps_done: int) -> Progress:
    return Progress(request_id=name, stage="denoise", steps_done=steps_done, steps_total=22, at=datetime.now(UTC))


async def test_progress_is_followed_from_the_start(deployment: Settings) -> None:
    told = [progress_event("hello-1", steps) for steps in (1, 2)]
    async with Client(deployment) as client, Answerer(deployment) as answerer:
        await answerer.tell(*told)
        assert await _first(client.progress(), 2) == told


async def test_one_request_is_watched_to_its_completion(deployment: Settings) -> None:
    async with Client(deployment) as client, Answerer(deployment) as answerer:
        place = await client.send_one(request("watched"))
        (record,) = await answerer.take(1)
        assert (place.partition, place.offset) == (record.partition, record.offset)
        told = [progress_event(name, steps) for name, steps in (("another", 3), ("watched", 1), ("watched", 2))]
        await answerer.tell(*told)
        completion = rendered(record)
        seen: list[Progress | Completion] = []
        async for news in client.watch("watched", timeout_s=30):
            seen.append(news)
            if len(seen) == 2:
                await answerer.publish([completion])
        assert seen == [*told[1:], completion]
        assert [news async for news in client.watch("nothing", timeout_s=0.2)] == []


async def test_partitions_that_are_added_are_followed(deployment: Settings) -> None:
    topic = deployment.topics.completions
    async with Client(deployment, growth_check_s=0.1) as client, Answerer(deployment) as answerer:
        ids = await client.send(several(2))
        first, second = map(rendered, await answerer.take(2))
        await answerer.publish([first])
        assert list(await client.wait([first.request_id], timeout_s=20)) == [first.request_id]  # of two partitions
        await _grow(deployment, topic, 3)
        added = AIOKafkaProducer(**kafka_arguments(deployment.kafka))
        await added.start()
        await added.send_and_wait(topic, second.model_dump_json().encode(), partition=2)
        await added.stop()
        assert sorted(await client.wait(ids, timeout_s=20)) == sorted(ids)


async def test_requests_spread_over_partitions_that_are_added(make_settings: MakeSettings) -> None:
    settings = make_settings(kafka__metadata_max_age_ms=500)
    await ensure_topics(settings)
    old = settings.topics.requests_partitions
    async with Client(settings, follow=False) as client, asyncio.timeout(20):
        await client.send(several(1))
        await _grow(settings, settings.topics.requests, old + 8)
        numbers = itertools.count()
        while (await client.send_one(request(f"new-{next(numbers)}"))).partition < old:
            await asyncio.sleep(0.02)


async def test_a_cancellation_is_published(deployment: Settings) -> None:
    async with Client(deployment, follow=False) as client:
        await client.cancel("hello-1", tenant="studio", reason="changed my mind")
        with pytest.raises(ValidationError):
            await client.cancel("no/id")
    (record,) = await read_all(deployment, deployment.topics.cancellations)
    cancellation = decode_cancellation(record.value, record.headers)
    assert (cancellation.tenant, cancellation.request_id) == ("studio", "hello-1")
    assert cancellation.reason == "changed my mind"
    assert record.key == b"hello-1"


async def test_a_request_larger_than_a_worker_reads_is_not_sent(make_settings: MakeSettings) -> None:
    settings = make_settings(limits__request_bytes_max=2048)
    await ensure_topics(settings)
    large = request("large", pose=SkeletonPose(image=InlinePicture(inline="QUJD" * 1000)))
    async with Client(settings, follow=False) as client:
        with pytest.raises(RequestRejected, match=r"the request large has \d+ bytes, at most 2048") as caught:
            await client.send([request("small"), large])
    assert caught.value.code is ErrorCode.REQUEST_TOO_LARGE
    assert await read_all(settings, settings.topics.requests) == []


async def test_a_failure_while_sending_says_what_was_accepted(make_settings: MakeSettings) -> None:
    await ensure_topics(make_settings(topics__max_message_bytes=65_536, limits__request_bytes_max=65_536))
    large = request("large", pose=SkeletonPose(image=InlinePicture(inline="QUJD" * 50_000)))
    async with Client(make_settings(), follow=False) as client:  # believes that the topic takes more than it does
        with pytest.raises(SendInterrupted, match="2 requests were accepted; the others can be sent again") as caught:
            await client.send([request("small-1"), large, request("small-2")])
    assert caught.value.accepted_ids == ("small-1", "small-2")
    records = await read_all(make_settings(), make_settings().topics.requests)
    assert sorted(record.key for record in records) == [b"small-1", b"small-2"]


async def test_the_largest_request_is_sent(deployment: Settings) -> None:
    inline = "QUJD" * (512 * 1024 // 3)
    async with Client(deployment, follow=False) as client:
        await client.send(request("large", pose=SkeletonPose(image=InlinePicture(inline=inline))))
    (record,) = await read_all(deployment, deployment.topics.requests)
    assert len(record.value) > 690_000


async def test_a_kafka_that_is_not_there_is_one_error_with_the_remedy() -> None:
    settings = load_settings(environ={"DARKROOM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    with pytest.raises(KafkaUnavailable, match="DARKROOM_KAFKA__BOOTSTRAP_SERVERS"):
        async with Client(settings):
            pass


async def test_topics_that_are_not_there_are_one_error_with_the_remedy(settings: Settings) -> None:
    with pytest.raises(KafkaUnavailable, match=rf"{settings.topics.completions}.*darkroom serve"):
        async with Client(settings):
            pass


async def test_leaving_ends_what_still_follows(deployment: Settings) -> None:
    async with Client(deployment) as client, Answerer(deployment) as answerer:
        await client.send(request("hello-1"))
        await answerer.publish([rendered(record) for record in await answerer.take(1)])
        events = client.completions()
        assert (await anext(events)).request_id == "hello-1"
        following = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
    with pytest.raises(KafkaUnavailable, match="closed"):
        await asyncio.wait_for(following, 10)


def test_the_client_loads_nothing_that_it_does_not_need() -> None:
    program = "import sys, darkroom.producer.client.client; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "numpy", "minio", "rich", "structlog", "click", "pydantic_settings"}


def _unless(record: Any, request_id: str) -> Completion | None:
    completion = rendered(record)
    return None if completion.request_id == request_id else completion


async def _first(events: Any, count: int) -> list[Any]:
    found: list[Any] = []
    async with asyncio.timeout(30), contextlib.aclosing(events):
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


async def _until_answered(settings: Settings, count: int) -> None:
    async with asyncio.timeout(30):
        while len(await read_all_so_far(settings, settings.topics.completions)) < count:
            await asyncio.sleep(0.05)


async def read_all_so_far(settings: Settings, topic: str) -> list[Any]:
    """What a reader gets that stops where the topic ends, commit markers and all."""
    async with TopicReader(settings.kafka, (topic,)) as reader:
        ends = {place: end for place, end in (await reader.stable_ends()).items() if end}
        reader.start_at(dict.fromkeys(ends, 0))
        records: list[Any] = []
        while any([await reader.position(place) < end for place, end in ends.items()]):
            records += await reader.read(0.2)
        return records


async def _grow(settings: Settings, topic: str, total: int) -> None:
    admin = AIOKafkaAdminClient(**kafka_arguments(settings.kafka))
    await admin.start()
    try:
        await admin.create_partitions({topic: NewPartitions(total)})
    finally:
        await admin.close()
    async with asyncio.timeout(10):
        while TopicPartition(topic, total - 1) not in await _partitions(settings, topic):
            await asyncio.sleep(0.05)


async def _partitions(settings: Settings, topic: str) -> frozenset[TopicPartition]:
    async with TopicReader(settings.kafka, (topic,)) as reader:
        return reader.partitions
