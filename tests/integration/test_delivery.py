"""Proves exactly one outcome per record on a real Kafka and S3: two workers, kill -9, a joiner, doubles, a drain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from darkroom.consumer.audit.audit import AuditReport
from darkroom.producer.client.client import Client
from tests.integration.fleet import Fleet, until

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack
STEP_MS = "20"
LATE = 24
"""Requests for two workers with six partitions: that all of them are for one worker is a chance in millions."""
LANE_ROWS_MAX = 8 + 4 + 16 + 16
"""What one worker may hold between the waiting room and the store: on the device, ahead, prepared, being stored."""


@pytest.fixture
async def fleet(stack: Stack, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="6")
    await fleet.make_topics()
    yield fleet
    fleet.stop()


async def test_two_workers_a_death_and_a_joiner(fleet: Fleet) -> None:
    first, second = (fleet.start("--simulated-device", STEP_MS) for _ in range(2))
    for worker in (first, second):
        worker.wait_ready()
    requests = fleet.requests(200)
    async with Client(fleet.settings) as client:
        ids = await client.send(requests)
        await client.send(requests[:10])  # the same again, as a producer that retries sends them
        await until(lambda: len(second.events("published")) >= 30, 60, "the second worker to be in the middle")
        second.kill()
        third = fleet.start("--simulated-device", STEP_MS)
        outcomes = await client.wait(ids, timeout_s=120)
        assert {one.status.value for one in outcomes.values()} == {"succeeded"}
        third.wait_ready()
        # However late the joiner was: there are more partitions than workers, so some of these are its own.
        last = [fleet.requests(1, request_id=f"{fleet.serial}-last-{number}")[0] for number in range(LATE)]
        await client.wait(await client.send(last), timeout_s=60)
        await until(lambda: sum(len(one.events("published")) for one in fleet.workers) >= 210 + LATE, 60, "the doubles")
    assert first.drain() == 0
    assert third.drain() == 0
    report = await fleet.audit()
    _assert_clean(report, records=210 + LATE)
    assert report.replayed == 10
    rendered = fleet.rendered()
    assert set(ids) <= set(rendered)
    twice = [request_id for request_id, times in rendered.items() if times > 1]
    assert len(twice) <= LANE_ROWS_MAX
    assert all(rendered[request_id] <= 2 for request_id in twice)
    assert third.events("published"), "the joiner took over a share"


async def test_a_drain_finishes_what_is_on_the_device_and_leaves_the_rest(fleet: Fleet) -> None:
    worker = fleet.start("--simulated-device", STEP_MS)
    worker.wait_ready()
    async with Client(fleet.settings) as client:
        ids = await client.send(fleet.requests(60))
        await until(lambda: len(worker.events("published")) >= 5, 60, "the worker to be in the middle")
        assert worker.drain() == 0
        done = {entry["request_id"] for entry in worker.events("published")}
        assert done == set(fleet.rendered()), "what was rendered was published before the end"
        report = await fleet.audit()
        assert report.pending == 60 - len(done)
        assert 0 < len(done) < 60
        fleet.start("--simulated-device", STEP_MS)
        await client.wait(ids, timeout_s=90)
    assert fleet.workers[1].drain() == 0
    _assert_clean(await fleet.audit(), records=60)
    assert max(fleet.rendered().values()) == 1, "a drain costs no second rendering"


def _assert_clean(report: AuditReport, *, records: int) -> None:
    assert report.records == records
    assert report.succeeded == records
    assert report.pending == 0
    assert not report.missing
    assert not report.duplicated
    assert not report.objects_missing
    assert not report.objects_corrupt
