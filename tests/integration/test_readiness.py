"""Proves that `/readyz` says when Kafka or the store is away, that nobody fails for it, and that it ends by itself."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest
import urllib3

from darkroom.consumer.kafka.broker import KafkaBroker
from darkroom.consumer.worker.ports import Delivery
from darkroom.consumer.worker.worker import Worker
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.kafka.topics import ensure_topics
from tests.chaos.proxy import Link
from tests.integration.behind_proxies import kafka_behind_a_proxy, store_behind_a_proxy
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

LIMIT_S = 30.0
AWAY = Link(refuses=True)


async def until_ready_says(worker: Worker, port: int, word: str | None) -> None:
    """Wait until a reason has this word, or until there is none."""
    assert worker.driver.joined
    async with asyncio.timeout(LIMIT_S):
        while True:
            answer = await asyncio.to_thread(
                urllib3.request, "GET", f"http://127.0.0.1:{port}/readyz", retries=False, timeout=5.0
            )
            reasons = json.loads(answer.data)["reasons"]
            assert (answer.status == 200) == (not reasons)
            if (word is None and not reasons) or (word is not None and any(word in reason for reason in reasons)):
                return
            await asyncio.sleep(0.1)


async def test_kafka_and_the_store_away(stack: Stack) -> None:
    settings = deployment_on(stack.environment)(
        topics__requests_partitions=2, worker__metrics_port=0, worker__backoff_ms_max=500
    )
    await ensure_topics(settings)
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=settings.batch.max_rows)
    async with (
        kafka_behind_a_proxy(settings) as (behind_one, kafka),
        store_behind_a_proxy(behind_one) as (behind_both, store),
        Producer(settings) as producer,
        running_worker(behind_both, engine) as worker,
    ):
        health = worker.serve_health()
        await until_ready_says(worker, health.port, None)
        kafka.link = AWAY
        kafka.cut()
        await until_ready_says(worker, health.port, "Kafka does not answer")
        kafka.link = Link()
        await until_ready_says(worker, health.port, None)

        store.link = AWAY
        store.cut()
        value = json.dumps({"request_id": f"r-{uuid.uuid4().hex}", "prompt": "a figure", "steps": 2}).encode()
        place = await producer.put(value)
        await until_ready_says(worker, health.port, "object store")
        store.link = Link()
        [answer] = (await producer.answers({place}))[place]
        assert answer.status.value == "succeeded"
        await until_ready_says(worker, health.port, None)
        health.close()


class HeldBroker(KafkaBroker):
    """Kafka whose polls do not return while `held` is set: what a poll inside of a library can come to."""

    held = asyncio.Event()

    async def poll(self, timeout_s: float) -> Sequence[Delivery]:
        """As the protocol says, once it is not held."""
        while self.held.is_set():
            await asyncio.sleep(0.01)
        return await super().poll(timeout_s)


async def test_a_worker_whose_polls_do_not_return_is_not_ready_and_its_metric_stands_still(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("darkroom.consumer.worker.worker.POLL_SILENT_S_MAX", 1.0)
    settings = deployment_on(stack.environment)(topics__requests_partitions=1, worker__metrics_port=0)
    await ensure_topics(settings)
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=1)
    async with running_worker(settings, engine, HeldBroker) as worker:
        health = worker.serve_health()
        await until_ready_says(worker, health.port, None)
        HeldBroker.held.set()
        await until_ready_says(worker, health.port, "No poll of Kafka has succeeded for")
        polled_at = worker.metrics.registry.get_sample_value("darkroom_last_poll_timestamp_seconds")
        assert polled_at is not None
        assert polled_at > 0
        HeldBroker.held.clear()
        await until_ready_says(worker, health.port, None)
        later = worker.metrics.registry.get_sample_value("darkroom_last_poll_timestamp_seconds")
        assert later is not None
        assert later > polled_at
        health.close()
