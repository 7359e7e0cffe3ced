"""Proves that slowness never costs the membership: neither a slow opening nor a broker that answers slowly throughout.

A member that is busy in its rebalance callback, or whose heartbeats wait behind other work, is evicted, joins again,
opens again and is evicted again, without end. Here opening is a task and heartbeats wait for nobody.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING

import pytest

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.broker import KafkaBroker
from darkroom.consumer.worker.ports import Opened
from darkroom.consumer.worker.worker import Worker
from darkroom.inference.engine import LaneEngine
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.settings import Settings
from tests.chaos.proxy import Link
from tests.integration.behind_proxies import kafka_behind_a_proxy
from tests.integration.by_hand import CountingDevice, until_no_lag
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import MakeSettings, deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

SESSION_S = 6.0
SLOW_S = 1.5 * SESSION_S
"""Who cannot keep its membership has lost it by then; what is slow for minutes is no other thing."""
SLOW = Link(latency_s=0.4)
"""Each way, so that a transaction of some five calls takes four seconds."""


class SlowToOpen(KafkaBroker):
    """Opening a partition takes longer than a session."""

    async def open(self, partition: PartitionKey, *, prove_ownership: bool) -> Opened:
        opened = await super().open(partition, prove_ownership=prove_ownership)
        await asyncio.sleep(SESSION_S + 1.0)
        return opened


@pytest.fixture
def make(stack: Stack) -> MakeSettings:
    """Settings of a deployment of its own, with the shortest session that the broker allows."""
    deployment = deployment_on(stack.environment)
    short = {"kafka__session_timeout_ms": int(SESSION_S * 1000)}
    return lambda **more: deployment(topics__requests_partitions=2, **short | more)


def value() -> bytes:
    return json.dumps({"request_id": f"r-{uuid.uuid4().hex}", "prompt": "a figure", "steps": 2}).encode()


def engine(settings: Settings) -> LaneEngine[object]:
    return LaneEngine(CountingDevice(), rows_max=settings.batch.max_rows)  # type: ignore[arg-type]


def counted(worker: Worker, name: str) -> float:
    return worker.metrics.registry.get_sample_value(name) or 0.0


async def test_opening_that_takes_longer_than_a_session_does_not_cost_the_membership(make: MakeSettings) -> None:
    settings = make()
    await ensure_topics(settings)
    async with Producer(settings) as producer:
        places = {await producer.put(value(), key=b"%d" % number) for number in range(6)}
        async with running_worker(settings, engine(settings), make_broker=SlowToOpen) as worker:
            found = await producer.answers(places)
            assert counted(worker, "darkroom_rebalances_total") == 1, "it joined once and stayed"
            assert counted(worker, "darkroom_fenced_total") == 0
    assert all(len(answers) == 1 for answers in found.values())


async def test_a_broker_that_answers_slowly_slows_the_worker_and_nothing_else(make: MakeSettings) -> None:
    settings = make()
    await ensure_topics(settings)
    async with (
        kafka_behind_a_proxy(settings) as (slowed, proxy),
        Producer(settings) as producer,
        running_worker(slowed, engine(slowed)) as worker,
    ):
        proxy.link = SLOW
        slow_until = asyncio.get_running_loop().time() + SLOW_S
        places = {await producer.put(value(), key=b"%d" % number) for number in range(6)}
        found = await producer.answers(places)
        await asyncio.sleep(slow_until - asyncio.get_running_loop().time())
        assert counted(worker, "darkroom_rebalances_total") == 1, "it kept its membership"
        assert counted(worker, "darkroom_fenced_total") == 0
        proxy.link = Link()
        await until_no_lag(settings)
    assert len(found) == 6
    assert all(len(answers) == 1 for answers in found.values())
