"""Proves that the known traps of Kafka and of shared batches are none here, each on a real Kafka by its name.

Transactional producers, compacted gaps, offsets that fell off retention, a topic made anew, offset maps that are not
to be trusted, two groups by mistake, more workers than partitions, a hot partition, wrong clocks, and batches with a
culprit or too little memory. The device is the simulated one; it counts what it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.admin import NewTopic

from darkroom.consumer.core.offset_map import encode_map
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.worker.worker import PREPARE_AHEAD_ROWS, Worker, limits_of
from darkroom.inference.engine import LaneEngine
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.outcomes.outcomes import Outcomes
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.settings import Settings
from tests.integration.by_hand import (
    LIMIT_S,
    CountingDevice,
    admin,
    commit,
    delete_records,
    ends,
    producer,
    until_no_lag,
)
from tests.integration.fleet import Fleet, until, wait_until
from tests.integration.in_process import Answer, Producer, running_worker
from tests.producer.deployments import MakeSettings, deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

Places = list[tuple[int, int]]
CREATE_TIMES_MS = {"1970": 0, "2100": 4_102_444_800_000, "the last that fits": 2**63 - 1}


@pytest.fixture
def make(stack: Stack) -> MakeSettings:
    """Settings of a deployment of its own, one partition unless told otherwise, and quick to notice things."""
    deployment = deployment_on(stack.environment)
    quick = {
        "topics__requests_partitions": 1,
        "kafka__session_timeout_ms": 6000,
        "kafka__metadata_max_age_ms": 1000,
    }
    return lambda **more: deployment(**quick | more)


def request(prompt: str = "a figure", **fields: Any) -> bytes:
    fields = {"request_id": f"r-{uuid.uuid4().hex}", "prompt": prompt, "steps": 2, **fields}
    return json.dumps(fields).encode()


@contextlib.asynccontextmanager
async def worker_on(settings: Settings, device: CountingDevice) -> AsyncIterator[Worker]:
    async with running_worker(settings, LaneEngine(device, rows_max=settings.batch.max_rows)) as worker:
        yield worker


async def put(settings: Settings, values: Sequence[bytes], *, partition: int = 0, **more: Any) -> Places:
    """Put values on one partition, in order. Returns where they are."""
    async with producer(settings) as hand:
        sent = [
            await hand.send(settings.topics.requests, value, key=b"k", partition=partition, **more) for value in values
        ]
        return [(one.partition, one.offset) for one in await asyncio.gather(*sent)]


async def answers(settings: Settings, places: Places) -> dict[tuple[int, int], list[Answer]]:
    async with Producer(settings) as reader:
        return await reader.answers(set(places), LIMIT_S)


async def succeeded(settings: Settings, places: Places) -> dict[tuple[int, int], list[Answer]]:
    """Wait for the answers: all are successes."""
    found = await answers(settings, places)
    assert {one.status.value for place in places for one in found[place]} == {"succeeded"}
    return found


async def test_control_records_do_not_hold_up_the_committed_offset(make: MakeSettings) -> None:
    settings = make()
    await ensure_topics(settings)
    async with worker_on(settings, CountingDevice()), producer(settings, transactional_id=uuid.uuid4().hex) as hand:

        async def transaction(*, aborts: bool = False) -> Places:
            await hand.begin_transaction()
            sent = [await hand.send_and_wait(settings.topics.requests, request(), partition=0) for _ in range(2)]
            await (hand.abort_transaction() if aborts else hand.commit_transaction())
            return [] if aborts else [(one.partition, one.offset) for one in sent]

        places = [*await transaction(), *await transaction(aborts=True), *await transaction()]
        await succeeded(settings, places)
        await until_no_lag(settings)
        await transaction(aborts=True)  # no outcome follows that would carry the offset along
        await until_no_lag(settings)
        found = await succeeded(settings, places)
    assert (await ends(settings))[0] == 12, "eight records and four markers"
    assert found.keys() == set(places), "what was aborted has no outcome"


async def test_compacted_gaps_are_passed_over(make: MakeSettings) -> None:
    settings = make()
    quick = {
        "cleanup.policy": "compact", "segment.ms": "100", "min.cleanable.dirty.ratio": "0.001",
        "max.compaction.lag.ms": "1", "delete.retention.ms": "0",
    }  # fmt: skip
    async with admin(settings) as client:
        await client.create_topics([NewTopic(settings.topics.requests, 1, 1, topic_configs=quick)])
    await ensure_topics(settings)
    await put(settings, [request() for _ in range(4)])  # all of one key
    await asyncio.sleep(0.2)  # the segment is to be older than segment.ms
    [kept] = await put(settings, [request()])
    await asyncio.sleep(0.2)
    [last] = await put(settings, [request()])
    await _until_compacted(settings, first_kept=kept[1])
    async with worker_on(settings, CountingDevice()):
        found = await succeeded(settings, [kept, last])
        await until_no_lag(settings)
    assert found.keys() == {kept, last}


async def _until_compacted(settings: Settings, *, first_kept: int) -> None:
    from darkroom.producer.kafka.reader import TopicReader

    async with asyncio.timeout(LIMIT_S), TopicReader(settings.kafka, (settings.topics.requests,)) as reader:
        while True:
            reader.start_at(await reader.beginnings())
            records = await reader.read(5)
            if records and records[0].offset >= first_kept:
                return
            await asyncio.sleep(0.5)


async def test_a_committed_offset_that_fell_off_retention_costs_only_what_is_gone(make: MakeSettings) -> None:
    settings = make()
    await ensure_topics(settings)
    async with worker_on(settings, CountingDevice()):
        await succeeded(settings, await put(settings, [request() for _ in range(3)]))
        await until_no_lag(settings)
    later = await put(settings, [request() for _ in range(6)])
    await delete_records(settings, {0: 7})
    async with worker_on(settings, CountingDevice()):
        kept = later[4:]
        found = await succeeded(settings, kept)
        await until_no_lag(settings)
    assert {place for place in found if place[1] >= 3} == set(kept)


@pytest.mark.parametrize("while_running", [False, True], ids=["while stopped", "while running"])
async def test_a_topic_made_anew_is_read_from_its_beginning(make: MakeSettings, *, while_running: bool) -> None:
    settings = make()
    await ensure_topics(settings)
    device = CountingDevice()
    async with contextlib.AsyncExitStack() as running:
        await running.enter_async_context(worker_on(settings, device))
        await succeeded(settings, await put(settings, [request("old") for _ in range(5)]))
        await until_no_lag(settings)
        if not while_running:
            await running.aclose()
        await _make_anew(settings)
        if not while_running:
            await running.enter_async_context(worker_on(settings, device))
        await put(settings, [request(f"new {number}") for number in range(3)])
        await until(lambda: all(device.prepared[f"new {number}"] for number in range(3)), LIMIT_S, "the new records")
        await until_no_lag(settings)
    assert device.prepared["old"] == 5


async def _make_anew(settings: Settings) -> None:
    topic = settings.topics.requests
    async with admin(settings) as client:
        await client.delete_topics([topic])
        async with asyncio.timeout(LIMIT_S):
            while (await client.create_topics([NewTopic(topic, 1, 1)])).topic_errors[0][1] != 0:
                pass  # at once, so that a running worker may not even see that the topic was gone


async def test_an_offset_map_that_is_not_this_commits_is_replayed_and_nothing_is_rendered_twice(
    make: MakeSettings,
) -> None:
    settings = make(topics__requests_partitions=5)
    topic = settings.topics.requests
    await ensure_topics(settings)
    device = CountingDevice()
    async with worker_on(settings, device):
        done = [
            place
            for number in range(5)
            for place in await put(settings, [request(f"done {number}") for _ in range(3)], partition=number)
        ]
        await succeeded(settings, done)
        await until_no_lag(settings)
    true = [encode_map(PartitionKey(topic, number), 0, [1, 2, 3, 4]) for number in range(5)]
    await commit(
        settings,
        {
            0: (0, true[1]),  # copied from another partition
            1: (0, encode_map(PartitionKey(topic, 1), 7, [8, 9])),  # of another commit
            2: (0, true[2][:-3]),  # cut
            3: (0, true[3][:-1] + ("A" if true[3][-1] != "A" else "B")),  # corrupted
            4: (0, "v9:" + true[4]),  # of another version
        },
    )
    new = [place for number in range(5) for place in await put(settings, [request("new")] * 1, partition=number)]
    async with worker_on(settings, device):
        await succeeded(settings, new)
        await until_no_lag(settings)
    found = await succeeded(settings, [*done, *new])
    assert all(len(found[place]) == 2 for place in done), "replayed, so published once more"
    assert all(found[place][0] == found[place][1] for place in done), "and the same: the outcome stood"
    assert all(len(found[place]) == 1 for place in new), "what a wrong map called finished was not skipped"
    assert all(device.prepared[f"done {number}"] == 3 for number in range(5)), "nothing was rendered twice"


async def test_two_groups_by_mistake_agree_on_every_outcome(make: MakeSettings) -> None:
    settings = make()
    other = make(kafka__group_id=f"{settings.kafka.group_id}-mistake", worker__name="by-mistake")
    await ensure_topics(settings)
    devices = CountingDevice(), CountingDevice()
    async with worker_on(settings, devices[0]), worker_on(other, devices[1]):
        places = await put(settings, [request(f"shared {number}") for number in range(6)])
        places += await put(settings, [b"no request"])
        await until_no_lag(settings)
        await until_no_lag(other)
    found = await answers(settings, places)
    for place in places[:-1]:
        first, second = found[place]
        assert isinstance(first, Completion)
        assert first == second, "one completion from each group, and both the one that was decided"
    assert len(found[places[-1]]) == 2, "a dead letter from each"
    async with MinioObjects(settings.s3) as objects:
        for place in places[:-1]:
            [first, _] = found[place]
            assert await Outcomes(objects).find(first.tenant, first.request_id) == first
    rendered = devices[0].prepared + devices[1].prepared
    assert all(1 <= rendered[f"shared {number}"] <= 2 for number in range(6))


async def test_a_worker_without_a_partition_is_ready_and_healthy(stack: Stack, tmp_path: Path) -> None:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="1")
    await fleet.make_topics()
    try:
        workers = [fleet.start("--simulated-device", "0") for _ in range(2)]
        for worker in workers:
            await asyncio.to_thread(worker.wait_ready)
        await succeeded(fleet.settings, await put(fleet.settings, [request() for _ in range(4)]))
        assert all(worker.is_ready() for worker in workers)
        idle, busy = sorted(workers, key=lambda one: len(one.events("published")))
        assert (len(idle.events("published")), len(busy.events("published"))) == (0, 4)
        assert busy.drain() == 0
        await succeeded(fleet.settings, await put(fleet.settings, [request() for _ in range(2)]))
        await asyncio.to_thread(wait_until, idle.is_ready, LIMIT_S, "the idle worker, which took over")
        assert len(idle.events("published")) == 2
        assert idle.drain() == 0
    finally:
        fleet.stop()


async def test_a_hot_partition_does_not_starve_the_others(make: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = make(topics__requests_partitions=3, batch__max_rows=4)
    small = replace(limits_of(settings), waiting_rows_max=32, offset_window=64)
    monkeypatch.setattr("darkroom.consumer.worker.worker.limits_of", lambda _: small)
    await ensure_topics(settings)
    device = CountingDevice(2.0)
    first = await put(settings, [request("hot") for _ in range(150)])
    cold = [
        place
        for number in (1, 2)
        for place in await put(settings, [request("cold") for _ in range(2)], partition=number)
    ]
    second = await put(settings, [request("hot") for _ in range(150)])
    async with worker_on(settings, device):
        await succeeded(settings, [*first, *cold, *second])
    last_cold = len(device.in_order) - 1 - device.in_order[::-1].index("cold")
    hot_before = device.in_order[:last_cold].count("hot") // 2
    held = 32 + 4 + 2 + PREPARE_AHEAD_ROWS
    assert hot_before <= len(first) + held, "what came later to the hot partition did not go before"


async def test_clocks_that_jump_change_neither_the_outcome_nor_the_worker(make: MakeSettings) -> None:
    settings = make()
    future = {"message.timestamp.after.max.ms": str(2**63 - 1)}
    async with admin(settings) as client:
        await client.create_topics([NewTopic(settings.topics.requests, 1, 1, topic_configs=future)])
    await ensure_topics(settings)
    places = []
    for name, timestamp_ms in CREATE_TIMES_MS.items():
        places += await put(settings, [request(name)], timestamp_ms=timestamp_ms)
    places += await put(settings, [request("now"), request("asked in 1970", deadline="1970-01-01T00:00:00Z")])
    places += await put(settings, [request("until 9998", deadline="9998-12-31T23:59:59Z")])
    async with worker_on(settings, CountingDevice()):
        found = await answers(settings, places)
        await until_no_lag(settings)
    statuses = [found[place][0].status.value for place in places]
    assert statuses == ["succeeded"] * 4 + ["expired", "succeeded"]
    for place in places:
        [completion] = found[place]
        total_ms = completion.timings_ms.total
        assert total_ms is None or total_ms >= 0


async def test_a_row_that_fails_fails_alone(make: MakeSettings) -> None:
    settings = make()
    await ensure_topics(settings)
    device = CountingDevice(1.0, obey_markers=True)
    values = [request(f"innocent {number}") for number in range(7)]
    values.insert(3, request("guilty [[simulate:fail]]"))
    places = await put(settings, values)
    async with worker_on(settings, device):
        found = await answers(settings, places)
    guilty = found[places[3]][0]
    assert guilty.error.code.value == "render_failed"
    others = [found[place][0] for number, place in enumerate(places) if number != 3]
    assert {one.status.value for one in others} == {"succeeded"}
    assert max(device.tried_rows) > 1, "they shared a batch"
    assert all(device.steps[f"innocent {number}"] == 2 for number in range(7)), "the innocent lost time, not steps"


async def test_too_little_memory_lowers_the_batch_and_fails_nobody(make: MakeSettings) -> None:
    settings = make()
    await ensure_topics(settings)
    device = CountingDevice(1.0, obey_markers=True)
    async with worker_on(settings, device):
        await succeeded(settings, await put(settings, [request("large [[simulate:oom 2]]") for _ in range(8)]))
        assert max(device.tried_rows) > 2, "it was tried"
        learnt = len(device.tried_rows)
        await succeeded(settings, await put(settings, [request("large [[simulate:oom 2]]") for _ in range(8)]))
    assert max(device.tried_rows[learnt:]) <= 2, "and not again"
