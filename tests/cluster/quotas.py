"""Limits what a user of a cluster may do each second, and takes the limits away.

Source of the layout: AlterClientQuotasRequest.json and AlterClientQuotasResponse.json, version 0, of Kafka 4.2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Float64, Int16, Int32, Schema, String

_ENTITY = Array(("entity_type", String("utf-8")), ("entity_name", String("utf-8")))


class AlterClientQuotasResponse(Response):
    API_KEY, API_VERSION = 49, 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("entries", Array(("error_code", Int16), ("error_message", String("utf-8")), ("entity", _ENTITY))),
    )


class AlterClientQuotasRequestV0(RequestStruct):
    API_KEY, API_VERSION = 49, 0
    RESPONSE_TYPE = AlterClientQuotasResponse
    SCHEMA = Schema(
        (
            "entries",
            Array(
                ("entity", _ENTITY),
                ("ops", Array(("key", String("utf-8")), ("value", Float64), ("remove", Boolean))),
            ),
        ),
        ("validate_only", Boolean),
    )


class AlterClientQuotas(Request[AlterClientQuotasRequestV0]):
    API_KEY = 49

    def __init__(self, user: str, limits: Mapping[str, float], *, remove: bool) -> None:
        changes = [(name, value, remove) for name, value in limits.items()]
        self._entries = [([("user", user)], changes)]

    def build(self, request_struct_class: type[AlterClientQuotasRequestV0]) -> AlterClientQuotasRequestV0:
        return request_struct_class(self._entries, False)


@asynccontextmanager
async def limited(admin: AIOKafkaAdminClient, user: str, limits: Mapping[str, float]) -> AsyncIterator[None]:
    """Limit a user while the block runs: `producer_byte_rate`, `consumer_byte_rate`, `request_percentage`."""
    await _alter(admin, AlterClientQuotas(user, limits, remove=False))
    try:
        yield
    finally:
        await _alter(admin, AlterClientQuotas(user, limits, remove=True))


async def _alter(admin: AIOKafkaAdminClient, request: AlterClientQuotas) -> None:
    answer = await admin._send_to_controller(request)
    for code, message, _ in answer.entries:
        if code:
            raise for_code(code)(message)
