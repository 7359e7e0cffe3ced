"""`serve --devices`: one command, two workers; one that is killed comes back; SIGTERM drains both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from darkroom.producer.client.client import Client
from tests.integration.fleet import Fleet, until

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack
START_S_MAX = 120.0


@pytest.fixture
async def fleet(stack: Stack, tmp_path: Path) -> AsyncIterator[Fleet]:
    fleet = Fleet(stack.environment, tmp_path, DARKROOM_TOPICS__REQUESTS_PARTITIONS="4")
    await fleet.make_topics()
    yield fleet
    # A supervisor that is killed cannot end its workers.
    for one in fleet.workers:
        for child in children(one.process.pid):
            child.kill()
    fleet.stop()


def children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


async def test_one_command_runs_a_worker_a_device_and_brings_back_one_that_died(fleet: Fleet) -> None:
    supervisor = fleet.start("--devices", "cpu,cpu", "--simulated-device", "5")
    await until(lambda: len(supervisor.events("ready")) == 2, START_S_MAX, "both workers to be ready")
    assert {entry["worker"] for entry in supervisor.events("ready")} == {f"{supervisor.name}-{n}" for n in (0, 1)}
    requests = fleet.requests(24)
    async with Client(fleet.settings) as client:
        await client.send(requests)
        first, second = children(supervisor.process.pid)
        first.kill()
        outcomes = await client.wait([one.request_id for one in requests], timeout_s=120)
        assert {one.status.value for one in outcomes.values()} == {"succeeded"}
        await until(lambda: len(supervisor.events("ready")) == 3, START_S_MAX, "the killed worker to be back")
    assert second in children(supervisor.process.pid)
    assert supervisor.events("the worker that was here before ended without a word")
    left = children(supervisor.process.pid)
    assert supervisor.drain() == 0
    assert [child for child in left if child.is_running()] == []
    report = await fleet.audit()
    assert (report.succeeded, report.pending, report.is_clean) == (24, 0, True)
