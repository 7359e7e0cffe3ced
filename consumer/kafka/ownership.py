"""Whose partition it is, by the group's own word.

After a fence this member may be a zombie: it was evicted, does not know it yet, and another member holds the
partition. Rebuilding the writer then would fence the lawful owner. The group coordinator knows, so it is
asked: a stable group whose description gives the partition to this member's client id.
"""

from __future__ import annotations

from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from consumer.core.partition_key import PartitionKey


async def owns(admin: AIOKafkaAdminClient, group_id: str, client_id: str, partition: PartitionKey) -> bool:
    """Whether the group, in a stable state, gives the partition to the member with this client id.

    Raises what the admin client raises (`KafkaError`).
    """
    for response in await admin.describe_consumer_groups([group_id]):
        for group in response.to_object()["groups"]:
            if group["state"] == "Stable":
                return any(_holds(member, client_id, partition) for member in group["members"])
    return False


async def members(admin: AIOKafkaAdminClient, group_id: str) -> frozenset[str]:
    """The client ids of the group's members. Raises what the admin client raises."""
    groups = [
        group
        for response in await admin.describe_consumer_groups([group_id])
        for group in response.to_object()["groups"]
    ]
    return frozenset(member["client_id"] for group in groups for member in group["members"])


def _holds(member: dict[str, Any], client_id: str, partition: PartitionKey) -> bool:
    if member["client_id"] != client_id or not member["member_assignment"]:
        return False
    assignment = ConsumerProtocolMemberAssignment.decode(member["member_assignment"])
    return any(topic == partition.topic and partition.partition in numbers for topic, numbers in assignment.assignment)
