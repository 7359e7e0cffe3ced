"""The group coordinator's answers as they are on the wire, and a client that asks it: `darkroom.producer.kafka.groups`
reads them.

A coordinator that moves to another broker, or has not loaded its group yet, answers with an error at the top of an
OffsetFetch or inside it, or leaves out what it was asked for. While a guest of the new protocol (KIP-848) is in the
group, the old question calls it Dead and without members; the new one tells the truth.
"""

from __future__ import annotations

import random
from enum import Enum
from types import SimpleNamespace
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.producer.kafka.protocol import ConsumerGroupDescribeRequest
from tests.simulation.kafka import Cluster
from tests.simulation.wire import Unanswered, Wire

GROUP = "group"
NODE = 0
LOADING, NOT_COORDINATOR, GROUP_ID_NOT_FOUND = 14, 16, 69


class Trouble(Enum):
    """How a coordinator answers that moves."""

    ERROR = "an error at the top"
    ERROR_WITHIN = "an error for every partition"
    SILENCE = "nothing about what was asked"


TROUBLES = tuple(Trouble)


class Asking:
    """What `darkroom.producer.kafka.groups` needs of an admin client, over a wire to the simulated cluster."""

    def __init__(self, cluster: Cluster, wire: Wire, rng: random.Random) -> None:
        self._cluster = cluster
        self._wire = wire
        self._rng = rng

    async def refresh_brokers(self) -> None:
        """There is one cluster, and it is known."""

    async def find_coordinator(self, _group_id: str) -> int:
        """The node to ask."""
        return NODE

    async def _send_request(self, request: Any, _node: int) -> Any:
        try:
            return await self._wire.call(lambda: self._answer(request))
        except Unanswered as error:
            raise GroupCoordinatorNotAvailableError("no answer") from error

    def _answer(self, request: Any) -> Any:
        moving = self._cluster.coordinator_is_moving()
        if isinstance(request, OffsetFetchRequest):
            return self._offsets(request, self._rng.choice(TROUBLES) if moving else None)
        error = self._rng.choice((LOADING, NOT_COORDINATOR)) if moving else 0
        if isinstance(request, DescribeGroupsRequest):
            return self._described(error)
        assert isinstance(request, ConsumerGroupDescribeRequest)
        return self._described_anew(error)

    def _offsets(self, request: OffsetFetchRequest, trouble: Trouble | None) -> Any:
        if trouble in (Trouble.ERROR, Trouble.SILENCE):
            code = NOT_COORDINATOR if trouble is Trouble.ERROR else 0
            return SimpleNamespace(error_code=code, topics=[])
        within = LOADING if trouble is Trouble.ERROR_WITHIN else 0
        topics = []
        for topic, numbers in request._partitions or ():
            answers = []
            for number in numbers:
                committed = self._cluster.partitions[PartitionKey(topic, number)].committed
                offset, metadata = (-1, "") if within or committed is None else committed
                answers.append((number, offset, metadata, within))
            topics.append((topic, answers))
        return SimpleNamespace(error_code=0, topics=topics)

    def _described(self, error: int) -> Any:
        if error or self._cluster.has_guest():
            return SimpleNamespace(groups=[(error, GROUP, "Dead", "", "", [])])
        members = [
            (name, name, "", b"", ConsumerProtocolMemberAssignment(0, _by_topic(held), b"").encode())
            for name, held in self._members()
        ]
        return SimpleNamespace(groups=[(0, GROUP, self._state(), "consumer", "", members)])

    def _described_anew(self, error: int) -> Any:
        if not error and not self._cluster.has_guest():
            error = GROUP_ID_NOT_FOUND
        members: list[tuple[Any, ...]] = []
        for name, held in self._members():
            assigned: Any = ([(b"", topic, numbers, {}) for topic, numbers in _by_topic(held)],)
            members.append((name, None, None, 0, name, "", [], None, assigned, None))
        return SimpleNamespace(groups=[(error, "", GROUP, self._state(), 0, 0, "", members)])

    def _state(self) -> str:
        return "Stable" if self._cluster.stable else "PreparingRebalance"

    def _members(self) -> list[tuple[str, frozenset[PartitionKey]]]:
        return [(one.client_id, one.assigned) for one in self._cluster.members.values()]


def _by_topic(held: frozenset[PartitionKey]) -> list[tuple[str, list[int]]]:
    by_topic: dict[str, list[int]] = {}
    for topic, number in sorted(held):
        by_topic.setdefault(topic, []).append(number)
    return sorted(by_topic.items())
