"""Proves on real processes that a request that kills its worker ends as `worker_crash` and costs the others nothing;
its bytes are in the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from darkroom.producer.client.client import Client
from darkroom.producer.kafka.reader import TopicReader
from darkroom.schemas.wire.codec import decode_request
from tests.integration.fleet import Fleet

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack
DEATHS_MAX = 1 + 3
"""One in company, then three alone."""


@pytest.fixture
async def fleet(stack: Stack, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(
        stack.environment,
        tmp_path,
        DARKROOM_TOPICS__REQUESTS_PARTITIONS="2",
        DARKROOM_SIMULATED__OBEY_MARKERS="true",
    )
    await fleet.make_topics()
    yield fleet
    fleet.stop()


async def keep_one_running(fleet: Fleet) -> None:
    """As a supervisor does: a worker that died is started again."""
    while True:
        worker = fleet.start("--simulated-device", "10")
        while worker.process.poll() is None:
            await asyncio.sleep(0.1)


async def the_dead_letter(fleet: Fleet) -> Any:
    """The record of the only dead letter."""
    async with TopicReader(fleet.settings.kafka, (fleet.settings.topics.dead_letters,)) as reader:
        reader.start_at(await reader.beginnings())
        async with asyncio.timeout(30):
            while not (records := await reader.read(0.5)):
                pass
    [letter] = records
    return letter


async def test_a_request_that_kills_its_worker_is_found_and_the_others_succeed(fleet: Fleet) -> None:
    innocent = fleet.requests(24)
    poison = fleet.requests(1, request_id=f"{fleet.serial}-poison", prompt="[[simulate:crash]]")
    async with Client(fleet.settings) as client:
        await client.send(innocent[:12] + poison + innocent[12:])
        supervising = asyncio.create_task(keep_one_running(fleet))
        try:
            outcomes = await client.wait([one.request_id for one in innocent + poison], timeout_s=240)
        finally:
            supervising.cancel()
    ended = outcomes.pop(poison[0].request_id)
    assert ended.error is not None
    assert ended.error.code.value == "worker_crash"
    assert {one.status.value for one in outcomes.values()} == {"succeeded"}
    deaths = [worker for worker in fleet.workers if worker.process.poll() is not None]
    assert len(deaths) <= DEATHS_MAX
    assert fleet.workers[-1].drain() == 0
    report = await fleet.audit()
    assert (report.records, report.succeeded, report.failed, report.dead_lettered) == (25, 24, 1, 1)
    assert report.is_clean
    assert report.pending == 0
    letter = await the_dead_letter(fleet)
    assert decode_request(letter.value, letter.headers, letter.key, max_bytes=1 << 20).request == poison[0]
