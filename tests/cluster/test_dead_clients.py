"""Proves that a worker whose client died of a passing refusal takes work again once the refusal is over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.broker import KafkaBroker
from darkroom.consumer.worker.ports import BrokerUnavailable
from darkroom.inference.engine import LaneEngine
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.events.completion import Status
from tests.cluster.brokers import AUTHORIZED, Brokers
from tests.cluster.rights import GROUP, READ, TOPIC, taken_away
from tests.cluster.test_refusals import request
from tests.integration.by_hand import CountingDevice, until_no_lag
from tests.integration.fleet import until
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    with Brokers(tmp_path_factory.mktemp("brokers"), properties=AUTHORIZED) as started:
        yield started


@pytest.mark.parametrize(("resource", "name"), [(GROUP, "{group}"), (TOPIC, "{prefix}generation.requests")])
async def test_a_worker_takes_work_again_after_a_right_was_missing(
    stack: Stack, brokers: Brokers, resource: int, name: str
) -> None:
    environment = {**stack.environment, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.bootstrap_servers}
    settings = deployment_on(environment)(topics__requests_partitions=2, kafka__session_timeout_ms=6000)
    await ensure_topics(settings)
    name = name.format(prefix=settings.topics.prefix, group=settings.kafka.group_id)
    engine = LaneEngine(CountingDevice(), rows_max=8)
    async with running_worker(settings, engine) as worker, Producer(settings) as producer:
        first = await producer.put(request())
        await producer.answers({first})
        async with taken_away(settings.kafka.bootstrap_servers, resource, name, READ):
            await until(lambda: worker.driver.poll_error is not None, 30, "polls to fail")
        places = {await producer.put(request()) for _ in range(10)}
        answers = await producer.answers(places)
        assert {place: [one.status for one in found] for place, found in answers.items() if place in places} == {
            place: [Status.SUCCEEDED] for place in places
        }
        await until_no_lag(settings)
        await until(lambda: worker.driver.poll_error is None, 30, "polls to succeed")


async def test_a_consumer_that_has_no_partitions_yet_is_told_of_some_and_nothing_ends(
    stack: Stack, brokers: Brokers
) -> None:
    """While a dead consumer is replaced, the core goes on with the partitions that the worker's writers hold."""
    environment = {**stack.environment, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.bootstrap_servers}
    settings = deployment_on(environment)(topics__requests_partitions=1)
    await ensure_topics(settings)
    topic, none_noted = settings.topics.requests, lambda _partitions: None
    broker = KafkaBroker(settings, topic=topic, client_id="replaced")
    key = PartitionKey(topic, 0)
    try:
        broker.pause(key)
        broker.resume(key, seek_to=0)
        await broker.join(none_noted, none_noted)
        await broker._consumer.stop()
        broker._consumer = broker._new_consumer()  # as it is between a dead one and the start of the next
        broker.pause(key)
        broker.resume(key, seek_to=0)
        with pytest.raises(BrokerUnavailable):
            await broker.open(key, prove_ownership=False)
        await until_read(broker)
    finally:
        await broker.leave()


async def until_read(broker: KafkaBroker) -> None:
    """Poll until a poll succeeds, as the driver does."""
    async with asyncio.timeout(60):
        while True:
            try:
                await broker.poll(0.1)
            except BrokerUnavailable:
                await asyncio.sleep(0.2)
            else:
                return
