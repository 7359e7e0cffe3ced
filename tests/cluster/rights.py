"""Gives and takes rights on a broker with an authorizer, for everybody: deny rules, and their removal.

Source of the layouts and numbers: CreateAclsRequest.json and DeleteAclsRequest.json, version 1, of Kafka 4.2, and
org.apache.kafka.common.{resource.ResourceType,acl.AclOperation}.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Int8, Int16, Int32, Schema, String

from darkroom.schemas.rights import Resource, Right

TOPIC, GROUP, CLUSTER, TRANSACTIONAL_ID = 2, 3, 4, 5
READ, WRITE, CREATE, ALTER, DESCRIBE, DESCRIBE_CONFIGS, IDEMPOTENT_WRITE = 3, 4, 5, 7, 8, 10, 12
LITERAL, PREFIXED = 3, 4
DENY, ALLOW = 2, 3
EVERYBODY, EVERYWHERE = "User:ANONYMOUS", "*"

_RULE = (
    ("resource_type", Int8),
    ("resource_name", String("utf-8")),
    ("pattern_type", Int8),
    ("principal", String("utf-8")),
    ("host", String("utf-8")),
    ("operation", Int8),
    ("permission", Int8),
)


class CreateAclsResponse(Response):
    API_KEY, API_VERSION = 30, 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32), ("results", Array(("error_code", Int16), ("error_message", String("utf-8"))))
    )


class CreateAclsRequestV1(RequestStruct):
    API_KEY, API_VERSION = 30, 1
    RESPONSE_TYPE = CreateAclsResponse
    SCHEMA = Schema(("creations", Array(*_RULE)))


class CreateAcls(Request[CreateAclsRequestV1]):
    API_KEY = 30

    def __init__(self, rule: tuple[Any, ...]) -> None:
        self._rule = rule

    def build(self, request_struct_class: type[CreateAclsRequestV1]) -> CreateAclsRequestV1:
        return request_struct_class([self._rule])


class DeleteAclsResponse(Response):
    API_KEY, API_VERSION = 31, 1
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            Array(
                ("error_code", Int16),
                ("error_message", String("utf-8")),
                ("matching", Array(("error_code", Int16), ("error_message", String("utf-8")), *_RULE)),
            ),
        ),
    )


class DeleteAclsRequestV1(RequestStruct):
    API_KEY, API_VERSION = 31, 1
    RESPONSE_TYPE = DeleteAclsResponse
    SCHEMA = Schema(("filters", Array(*_RULE)))


class DeleteAcls(Request[DeleteAclsRequestV1]):
    API_KEY = 31

    def __init__(self, rule: tuple[Any, ...]) -> None:
        self._rule = rule

    def build(self, request_struct_class: type[DeleteAclsRequestV1]) -> DeleteAclsRequestV1:
        return request_struct_class([self._rule])


_RESOURCES = {Resource.TOPIC: TOPIC, Resource.GROUP: GROUP, Resource.TRANSACTIONAL_ID: TRANSACTIONAL_ID}
_OPERATIONS = {
    "Read": READ,
    "Write": WRITE,
    "Create": CREATE,
    "Alter": ALTER,
    "Describe": DESCRIBE,
    "DescribeConfigs": DESCRIBE_CONFIGS,
}


async def grant(admin: AIOKafkaAdminClient, user: str, right: Right) -> None:
    """Allow a user one thing."""
    await _change(admin, CreateAcls(_allowing(user, right)))


async def withdraw(admin: AIOKafkaAdminClient, user: str, right: Right) -> None:
    """Take it back."""
    await _change(admin, DeleteAcls(_allowing(user, right)))


def _allowing(user: str, right: Right) -> tuple[Any, ...]:
    pattern = PREFIXED if right.is_prefix else LITERAL
    resource, operation = _RESOURCES[right.resource], _OPERATIONS[right.operation]
    return (resource, right.name, pattern, f"User:{user}", EVERYWHERE, operation, ALLOW)


@asynccontextmanager
async def taken_away(bootstrap_servers: str, resource: int, name: str, operation: int) -> AsyncIterator[None]:
    """Deny everybody one operation on one resource while the block runs."""
    rule = (resource, name, LITERAL, EVERYBODY, EVERYWHERE, operation, DENY)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    try:
        await _change(admin, CreateAcls(rule))
        yield
        await _change(admin, DeleteAcls(rule))
    finally:
        await admin.close()


async def _change(admin: AIOKafkaAdminClient, request: Any) -> None:
    answer = await admin._send_to_controller(request)
    for code, message, *_ in answer.results:
        if code:
            raise for_code(code)(message)
