"""Proves that a coordinator which does not answer is never read as a group without offsets or members."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, KafkaError
from aiokafka.structs import OffsetAndMetadata

from darkroom.consumer.kafka.initial_offsets import Offsets, commit_offsets
from darkroom.producer.kafka.administrator import Administrator
from darkroom.producer.kafka.connection import KafkaUnavailable, kafka_arguments
from darkroom.producer.kafka.groups import committed_offsets, describe_group
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.settings import Settings
from tests.chaos.proxy import Proxy
from tests.consumer.test_init import commit, offsets_of
from tests.new_protocol_member import joined_by_new_protocol
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

OFFSET_FETCH, DESCRIBE_GROUPS = 9, 15
NOT_COORDINATOR, LOAD_IN_PROGRESS, GROUP_AUTHORIZATION_FAILED = 16, 14, 30


def offsets_refused(code: int) -> bytes:
    """OffsetFetch v3: throttle time, no topics, the error at the top."""
    return struct.pack(">iih", 0, 0, code)


def offsets_none(topic: str, partition: int) -> bytes:
    """OffsetFetch v3: the coordinator says that the group has committed nothing for a partition."""
    name = topic.encode()
    one = struct.pack(">iqhh", partition, -1, 0, 0)
    return struct.pack(">iih", 0, 1, len(name)) + name + struct.pack(">i", 1) + one + struct.pack(">h", 0)


def group_refused(code: int) -> bytes:
    """DescribeGroups v3: throttle time, one group with an error and empty fields."""
    return (
        struct.pack(">ii", 0, 1) + struct.pack(">h", code) + struct.pack(">hhhh", 0, 0, 0, 0) + struct.pack(">ii", 0, 0)
    )


class Coordinator(Proxy):
    """A broker that gives its own answers to chosen questions while it has some, and the real ones then."""

    def __init__(self, target_port: int) -> None:
        super().__init__(target_port, kafka=True)
        self.answers: dict[int, list[bytes]] = {}
        """By API key: the bodies of the next answers, in order."""
        self.asked: Counter[int] = Counter()

    async def _relay(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        (near_reader, far_writer), (far_reader, near_writer) = ways
        connection: dict[int, int] = {}

        async def requests() -> None:
            while True:
                frame = await near_reader.readexactly(4)
                body = await near_reader.readexactly(struct.unpack(">i", frame)[0])
                key, _, correlation = struct.unpack(">hhi", body[:8])
                connection[correlation] = key
                self.asked[key] += 1
                far_writer.write(frame + body)
                await far_writer.drain()

        async def responses() -> None:
            while True:
                frame = await self._frame(far_reader)
                (correlation,) = struct.unpack(">i", frame[4:8])
                planned = self.answers.get(connection.pop(correlation, -1))
                if planned:
                    frame = struct.pack(">ii", 4 + len(planned[0]), correlation) + planned.pop(0)
                near_writer.write(frame)
                await near_writer.drain()

        pumps = [asyncio.create_task(requests()), asyncio.create_task(responses())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)


@pytest.fixture
async def coordinator(stack: Stack) -> AsyncIterator[Coordinator]:
    _, _, port = stack.environment["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"].rpartition(":")
    proxy = Coordinator(int(port))
    await proxy.start()
    yield proxy
    await proxy.close()


@pytest.fixture
def settings(stack: Stack, coordinator: Coordinator) -> Settings:
    environment = {**stack.environment, "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{coordinator.port}"}
    return deployment_on(environment)()


@asynccontextmanager
async def administered(settings: Settings) -> AsyncIterator[Administrator]:
    admin = Administrator(**kafka_arguments(settings.kafka))
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()


@pytest.mark.parametrize("code", [NOT_COORDINATOR, LOAD_IN_PROGRESS])
async def test_offsets_are_asked_for_again_while_the_coordinator_moves(
    settings: Settings, coordinator: Coordinator, code: int
) -> None:
    await ensure_topics(settings)
    await commit(settings, 1, 3, "map")
    places = [TopicPartition(settings.topics.requests, number) for number in range(3)]
    coordinator.answers[OFFSET_FETCH] = [offsets_refused(code)] * 3
    async with administered(settings) as admin:
        found = await committed_offsets(admin, settings.kafka.group_id, places, timeout_s=20)
    assert found == {places[0]: None, places[1]: OffsetAndMetadata(3, "map"), places[2]: None}
    assert coordinator.asked[OFFSET_FETCH] == 4


async def test_an_answer_that_leaves_out_a_partition_is_no_answer(settings: Settings, coordinator: Coordinator) -> None:
    await ensure_topics(settings)
    place = TopicPartition(settings.topics.requests, 1)
    coordinator.answers[OFFSET_FETCH] = [offsets_refused(0)] * 1000
    async with administered(settings) as admin:
        with pytest.raises(KafkaError, match=r"says nothing of .*-1"):
            await committed_offsets(admin, settings.kafka.group_id, [place], timeout_s=1)


async def test_what_is_refused_for_good_is_not_asked_again(settings: Settings, coordinator: Coordinator) -> None:
    await ensure_topics(settings)
    coordinator.answers[OFFSET_FETCH] = [offsets_refused(GROUP_AUTHORIZATION_FAILED)]
    coordinator.answers[DESCRIBE_GROUPS] = [group_refused(GROUP_AUTHORIZATION_FAILED)]
    place = TopicPartition(settings.topics.requests, 1)
    async with administered(settings) as admin:
        with pytest.raises(GroupAuthorizationFailedError):
            await committed_offsets(admin, settings.kafka.group_id, [place], timeout_s=20)
        with pytest.raises(GroupAuthorizationFailedError):
            await describe_group(admin, settings.kafka.group_id, timeout_s=20)
    assert (coordinator.asked[OFFSET_FETCH], coordinator.asked[DESCRIBE_GROUPS]) == (1, 1)


async def test_members_are_asked_for_again_while_the_coordinator_moves(
    settings: Settings, coordinator: Coordinator
) -> None:
    await ensure_topics(settings)
    coordinator.answers[DESCRIBE_GROUPS] = [group_refused(NOT_COORDINATOR), group_refused(LOAD_IN_PROGRESS)]
    async with administered(settings) as admin:
        assert (await describe_group(admin, settings.kafka.group_id, timeout_s=20)).members == ()
    assert coordinator.asked[DESCRIBE_GROUPS] == 3


async def test_initial_offsets_never_rewind_a_group_whose_coordinator_moves(
    settings: Settings, coordinator: Coordinator
) -> None:
    await ensure_topics(settings)
    await commit(settings, 1, 3, "map")
    coordinator.answers[OFFSET_FETCH] = [offsets_refused(NOT_COORDINATOR)] * 8
    coordinator.answers[DESCRIBE_GROUPS] = [group_refused(NOT_COORDINATOR)] * 2
    assert await commit_offsets(settings) == Offsets(committed=(0, 2), refreshed=(1,))
    assert (await offsets_of(settings))[1] == OffsetAndMetadata(3, "map")


async def test_initial_offsets_write_nothing_where_the_coordinator_contradicts_itself(
    settings: Settings, coordinator: Coordinator
) -> None:
    topics = settings.topics.model_copy(update={"requests_partitions": 1})
    settings = settings.model_copy(update={"topics": topics})
    await ensure_topics(settings)
    await commit(settings, 0, 3, "map")

    class Forgets(list[bytes]):
        """The truth before the writer has started, then twice that there is nothing."""

        def __bool__(self) -> bool:
            return 2 <= coordinator.asked[OFFSET_FETCH] <= 3

        def pop(self, index: object = 0) -> bytes:
            return self[0]

    coordinator.answers[OFFSET_FETCH] = Forgets([offsets_none(settings.topics.requests, 0)])
    with pytest.raises(KafkaUnavailable, match=r"contradicts itself .* committed at 3, then nowhere"):
        await commit_offsets(settings)
    assert (await offsets_of(settings))[0] == OffsetAndMetadata(3, "map")


async def test_a_member_of_the_new_protocol_is_seen_and_left_alone(settings: Settings) -> None:
    await ensure_topics(settings)
    kafka = settings.kafka
    guest = joined_by_new_protocol(kafka.bootstrap_servers, kafka.group_id, "guest", settings.topics.requests)
    async with administered(settings) as admin, guest:
        described = await describe_group(admin, settings.kafka.group_id, timeout_s=20)
        assert described.client_ids == {"guest"}
        assert await commit_offsets(settings) == Offsets(left=(0, 1, 2))
    assert await offsets_of(settings) == {}
