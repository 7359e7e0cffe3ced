"""Asks the group coordinator about a consumer group. Every answer is complete, or an error is raised.

aiokafka's admin client drops errors where a decision hangs on them (read and run in 0.14.0):

- `list_consumer_group_offsets` ignores the top-level error of OffsetFetch, so a coordinator that moves or loads
  (NOT_COORDINATOR, COORDINATOR_LOAD_IN_PROGRESS) reads as a group without offsets.
- `describe_consumer_groups` ignores each group's error, so the same coordinator reads as a group without members.
- Both ask one broker, chosen at random, which may be the one that is down.

A coordinator that is asked for a partition always names it, with offset -1 where the group has none (KIP-88). So a
partition that is missing from an answer is an error, and is asked for again.

While one consumer of the new protocol (KIP-848) is in a group, DescribeGroups calls the group Dead, without members and
without an error. ConsumerGroupDescribe (API key 69, Kafka 3.7 and newer) then tells the truth.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from aiokafka import TopicPartition
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    IncompatibleBrokerVersion,
    InconsistentGroupProtocolError,
    KafkaError,
    UnsupportedVersionError,
    for_code,
)
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.structs import OffsetAndMetadata

from darkroom.producer.kafka.protocol import ConsumerGroupDescribeRequest

__all__ = ["Group", "Member", "committed_offsets", "describe_group"]

RETRY_S: Final = 0.2
"""Pause before the coordinator is looked up again: electing and loading one takes tenths of a second to seconds."""
_GROUP_ID_NOT_FOUND: Final = 69
_NO_PROTOCOL_TYPE: Final = ""
_CONSUMER: Final = "consumer"

AnswerT = TypeVar("AnswerT")


class Questions(Protocol):
    """Questions to a cluster: to `darkroom.producer.kafka.administrator.Administrator`, or to a simulated one."""

    async def find_coordinator(self, group_id: str, /) -> int:
        """Return the node that coordinates a group. Raises `KafkaError`."""

    async def refresh_brokers(self) -> None:
        """Learn of brokers that came and went. Never raises."""

    async def _send_request(self, request: Any, node_id: int, /) -> Any:
        """Return a node's answer to a request. Raises `KafkaError`."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a group, as its coordinator describes it."""

    client_id: str
    assigned: frozenset[TopicPartition]


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group, as its coordinator describes it."""

    state: str
    """Kafka's name of it: Stable, Empty, PreparingRebalance, Dead for a group that does not exist, ..."""
    members: tuple[Member, ...]

    @property
    def client_ids(self) -> frozenset[str]:
        """The client ids of all members."""
        return frozenset(member.client_id for member in self.members)

    def assigns(self, partition: TopicPartition, client_id: str) -> bool:
        """Return True if the group is stable and `partition` belongs to the member with this client id."""
        return self.state == "Stable" and any(
            member.client_id == client_id and partition in member.assigned for member in self.members
        )


class AnswerIncompleteError(KafkaError):  # type: ignore[misc]
    """The coordinator left out something that it was asked for. Asking again may bring it."""

    retriable = True


async def committed_offsets(
    admin: Questions, group_id: str, partitions: Collection[TopicPartition], *, timeout_s: float
) -> dict[TopicPartition, OffsetAndMetadata | None]:
    """Return what the group has committed for each of `partitions`; None where the coordinator says it has nothing.

    Raises `KafkaError` for an answer that is refused, or that does not come within `timeout_s`.
    """
    if not partitions:
        return {}
    by_topic: dict[str, set[int]] = defaultdict(set)
    for topic, number in partitions:
        by_topic[topic].add(number)
    request = OffsetFetchRequest(group_id, [(topic, sorted(numbers)) for topic, numbers in sorted(by_topic.items())])

    def read(response: Any) -> dict[TopicPartition, OffsetAndMetadata | None]:
        _raise_for(getattr(response, "error_code", 0), group_id)
        found: dict[TopicPartition, OffsetAndMetadata | None] = {}
        for topic, answers in response.topics:
            for number, offset, metadata, code in answers:
                _raise_for(code, f"{group_id} at {topic}-{number}")
                found[TopicPartition(topic, number)] = None if offset < 0 else OffsetAndMetadata(offset, metadata or "")
        if missing := set(partitions) - found.keys():
            raise AnswerIncompleteError(f"the coordinator of {group_id} says nothing of {_listed(missing)}")
        return found

    return await _ask_coordinator(admin, group_id, request, read, timeout_s=timeout_s)


async def describe_group(admin: Questions, group_id: str, *, timeout_s: float) -> Group:
    """Return the group's state and members, those of the new group protocol (KIP-848) included.

    Raises `KafkaError` for an answer that is refused, or that does not come within `timeout_s`, and for a group of
    another kind than consumers.
    """

    def read(response: Any) -> Group:
        (described,) = response.groups or [(GroupCoordinatorNotAvailableError.errno, group_id, "", "", "", [])]
        code, _, state, protocol_type, _, members = described[:6]
        _raise_for(code, group_id)
        if protocol_type not in (_CONSUMER, _NO_PROTOCOL_TYPE):
            raise InconsistentGroupProtocolError(f"the group {group_id} has {protocol_type!r} members, not consumers")
        return Group(state, tuple(Member(one[1], _assigned(one[4])) for one in members))

    group = await _ask_coordinator(admin, group_id, DescribeGroupsRequest([group_id]), read, timeout_s=timeout_s)
    if group.state == "Dead":
        return await _describe_new_group(admin, group_id, timeout_s=timeout_s) or group
    return group


async def _describe_new_group(admin: Questions, group_id: str, *, timeout_s: float) -> Group | None:
    """Return a group that has members of the new protocol. None where there is no such group, or no such protocol."""

    def read(response: Any) -> Group | None:
        (described,) = response.groups or [(GroupCoordinatorNotAvailableError.errno,)]
        if described[0] == _GROUP_ID_NOT_FOUND:
            return None
        _raise_for(described[0], group_id)
        _, _, _, state, _, _, _, members, *_ = described
        return Group(state, tuple(Member(one[4], _assigned_of_new(one[8])) for one in members))

    request = ConsumerGroupDescribeRequest([group_id])
    try:
        return await _ask_coordinator(admin, group_id, request, read, timeout_s=timeout_s)
    except (IncompatibleBrokerVersion, NotImplementedError, UnsupportedVersionError):
        # A broker without the new protocol has no groups of it. Kafka 3.7 to 3.9 know the question and refuse it as an
        # unsupported version while the protocol is off, as it is by default there; newer ones do where it is off.
        return None


async def _ask_coordinator(
    admin: Questions, group_id: str, request: Any, read: Callable[[Any], AnswerT], *, timeout_s: float
) -> AnswerT:
    """Ask the group's coordinator until `read` takes its answer. The coordinator is looked up before each try."""
    now = asyncio.get_running_loop().time
    deadline = now() + timeout_s
    while True:
        try:
            async with asyncio.timeout(max(RETRY_S, deadline - now())):
                node = await admin.find_coordinator(group_id)
                return read(await admin._send_request(request, node))
        except TimeoutError as error:
            raise GroupCoordinatorNotAvailableError(
                f"the coordinator of the group {group_id} did not answer within {timeout_s:.0f} s"
            ) from error
        except KafkaError as error:
            if not getattr(error, "retriable", False) or now() + RETRY_S > deadline:
                raise
        await admin.refresh_brokers()  # a coordinator may be one that the client has never heard of
        await asyncio.sleep(RETRY_S)


def _raise_for(code: int, about: str) -> None:
    if code:
        raise for_code(code)(f"asked about the group {about}")


def _assigned(encoded: bytes) -> frozenset[TopicPartition]:
    if not encoded:
        return frozenset()
    return _places(ConsumerProtocolMemberAssignment.decode(encoded).assignment)


def _assigned_of_new(assignment: tuple[Any, ...]) -> frozenset[TopicPartition]:
    return _places((name, numbers) for _, name, numbers, _ in assignment[0])


def _places(assignment: Iterable[tuple[str, Iterable[int]]]) -> frozenset[TopicPartition]:
    return frozenset(TopicPartition(topic, number) for topic, numbers in assignment for number in numbers)


def _listed(partitions: Iterable[TopicPartition]) -> str:
    return ", ".join(f"{topic}-{number}" for topic, number in sorted(partitions))
