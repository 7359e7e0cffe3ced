"""A group member of Kafka's new protocol (KIP-848), which aiokafka 0.14 cannot be: joins, and leaves in the end.

Source of the layouts: Kafka 4.2, ConsumerGroupHeartbeat{Request,Response}.json, version 0.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from darkroom.producer.kafka.protocol import Uuid

JOIN_EPOCH, LEAVE_EPOCH = 0, -1
REBALANCE_MS = 45_000


class HeartbeatResponse(Response):
    API_KEY = 68
    API_VERSION = 0
    # The assignment that follows is a nullable structure; nobody here reads it.
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        ("error_message", CompactString("utf-8")),
        ("member_id", CompactString("utf-8")),
        ("member_epoch", Int32),
        ("heartbeat_interval_ms", Int32),
    )


class HeartbeatRequestV0(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY = 68
    API_VERSION = 0
    RESPONSE_TYPE = HeartbeatResponse
    SCHEMA = Schema(
        ("group_id", CompactString("utf-8")),
        ("member_id", CompactString("utf-8")),
        ("member_epoch", Int32),
        ("instance_id", CompactString("utf-8")),
        ("rack_id", CompactString("utf-8")),
        ("rebalance_timeout_ms", Int32),
        ("subscribed_topic_names", CompactArray(CompactString("utf-8"))),
        ("server_assignor", CompactString("utf-8")),
        (
            "topic_partitions",
            CompactArray(("topic_id", Uuid), ("partitions", CompactArray(Int32)), ("tags", TaggedFields)),
        ),
        ("tags", TaggedFields),
    )


class Heartbeat(Request[HeartbeatRequestV0]):
    API_KEY = 68

    def __init__(self, group_id: str, member_id: str, epoch: int, topic: str) -> None:
        self._fields = (group_id, member_id, epoch, None, None, REBALANCE_MS, [topic], None, [], {})

    def build(self, request_struct_class: type[HeartbeatRequestV0]) -> HeartbeatRequestV0:
        return request_struct_class(*self._fields)


@asynccontextmanager
async def joined_by_new_protocol(
    bootstrap_servers: str, group_id: str, client_id: str, topic: str
) -> AsyncIterator[None]:
    """Be a member with this client id while the block runs."""
    guest = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers, client_id=client_id)
    await guest.start()
    try:
        node = await guest.find_coordinator(group_id)
        joined = await _beat(guest, node, Heartbeat(group_id, "", JOIN_EPOCH, topic))
        yield
        await _beat(guest, node, Heartbeat(group_id, joined.member_id, LEAVE_EPOCH, topic))
    finally:
        await guest.close()


async def _beat(guest: AIOKafkaAdminClient, node: int, heartbeat: Heartbeat) -> Any:
    answer = await guest._send_request(heartbeat, node)
    if answer.error_code:
        raise for_code(answer.error_code)(answer.error_message)
    return answer
