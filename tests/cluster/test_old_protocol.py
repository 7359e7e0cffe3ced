"""Proves that a cluster without the new group protocol (KIP-848), as Kafka 3.9 is by default, is initialized too.

Such a broker names ConsumerGroupDescribe among what it knows, and refuses it as an unsupported version.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from darkroom.consumer.kafka.initial_offsets import commit_offsets
from darkroom.producer.kafka.connection import administering
from darkroom.producer.kafka.groups import describe_group
from darkroom.producer.kafka.topics import ensure_topics
from tests.cluster.brokers import Brokers
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    properties = {"group.coordinator.rebalance.protocols": "classic"}
    with Brokers(tmp_path_factory.mktemp("brokers"), properties=properties) as started:
        yield started


async def test_a_group_that_is_not_there_is_described_and_its_offsets_are_committed(
    stack: Stack, brokers: Brokers
) -> None:
    environment = {**stack.environment, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": brokers.bootstrap_servers}
    settings = deployment_on(environment)(topics__requests_partitions=2)
    await ensure_topics(settings)
    async with administering(settings.kafka, "testing") as admin:
        assert (await describe_group(admin, settings.kafka.group_id, timeout_s=10)).members == ()
    assert (await commit_offsets(settings)).committed == (0, 1)
    assert (await commit_offsets(settings)).refreshed == (0, 1)
