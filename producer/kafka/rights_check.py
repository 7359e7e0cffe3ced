"""Finds out which of a role's rights are missing on the cluster, by questions that change nothing.

Resource            Question, and where the answer comes from
topics              Metadata, version 8: the broker lists what whoever asks may do with each topic (KIP-430).
topics' settings    DescribeConfigs, which a topic that may not be described answers as well.
group, Read         Heartbeat of a member that does not exist: Read is checked first, then the member is unknown.
group, Describe     DescribeGroups.
transactional ids   EndTxn of a producer that does not exist: Write is checked first, then the producer is unknown.

The order of the checks is that of kafka.server.KafkaApis, and the same in Kafka 3.9 to 4.4. A broker that checks rights
checks them before it looks whether it is the coordinator, so any broker can be asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.transaction import EndTxnRequest

from darkroom.producer.kafka.administrator import Administrator
from darkroom.producer.kafka.connection import KafkaDenied, administering
from darkroom.producer.kafka.denials import lacks, named
from darkroom.producer.kafka.groups import describe_group
from darkroom.producer.kafka.protocol import AuthorizedTopicsRequest
from darkroom.schemas.rights import Resource, Right, Role, rights_of

if TYPE_CHECKING:
    from darkroom.schemas.settings import Settings

__all__ = ["check_rights", "missing_rights"]

OPERATIONS: Final = {"Read": 3, "Write": 4, "Create": 5, "Alter": 7, "Describe": 8}
"""The bit of each operation that Metadata tells: org.apache.kafka.common.acl.AclOperation."""
UNTOLD: Final = -(2**31)
"""In place of the operations, from a broker that does not tell them."""
NOBODY: Final = "darkroom-doctor"
"""A member, and the end of a transactional id, that nobody has."""


async def missing_rights(settings: Settings, role: Role) -> tuple[Right, ...]:
    """Return the rights of `role` that this deployment's user lacks, in the table's order. Changes nothing.

    Rights that a cluster cannot tell of are taken to be there, as those on topics that are not there. Raises
    `KafkaUnavailable`.
    """
    rights = rights_of(role, prefix=settings.topics.prefix, group_id=settings.kafka.group_id)
    async with administering(settings.kafka, f"asking for the rights of {role.value}") as admin:
        topics = await _of_topics(admin, [one.name for one in rights if one.resource is Resource.TOPIC])
        unread = await _with_hidden_settings(admin, [one.name for one in rights if one.operation == "DescribeConfigs"])
        return tuple(
            [one for one in rights if _is_hidden(one, unread) or not await _is_there(admin, settings, one, topics)]
        )


async def check_rights(settings: Settings, role: Role) -> None:
    """Raise `KafkaDenied` with all that `role` lacks, where it lacks something. Raises `KafkaUnavailable`."""
    if missing := await missing_rights(settings, role):
        raise KafkaDenied(said(settings, role, missing))


def said(settings: Settings, role: Role, missing: Iterable[Right]) -> str:
    """Return the sentence for what a role lacks."""
    return lacks(settings.kafka, [named(one) for one in missing], role=role.value)


async def _of_topics(admin: Administrator, names: list[str]) -> dict[str, int]:
    """Return what may be done with each topic, as bits; no topic that is not there, or of which nothing is told."""
    try:
        answer: Any = await admin._send_request(AuthorizedTopicsRequest(sorted(set(names))))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return {}
    found = {}
    for code, name, _, _, operations in answer.topics:
        if code == TopicAuthorizationFailedError.errno:
            found[name] = 0
        elif code == 0 and operations != UNTOLD:
            found[name] = operations
    return found


async def _with_hidden_settings(admin: Administrator, names: list[str]) -> set[str]:
    """Return the topics whose settings may not be read."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, {"retention.ms": None}) for name in names]
    answers: Any = await admin.describe_configs(asked) if asked else ()
    return {
        name
        for answer in answers
        for code, _, _, name, _ in answer.resources
        if code == TopicAuthorizationFailedError.errno
    }


def _is_hidden(right: Right, unread: set[str]) -> bool:
    return right.operation == "DescribeConfigs" and right.name in unread


async def _is_there(admin: Administrator, settings: Settings, right: Right, topics: dict[str, int]) -> bool:
    if right.resource is Resource.TOPIC:
        told = right.name in topics and right.operation in OPERATIONS
        return not told or bool(topics[right.name] >> OPERATIONS[right.operation] & 1)
    if right.resource is Resource.TRANSACTIONAL_ID:
        name = f"{right.name}{NOBODY}" if right.is_prefix else right.name
        answer = await admin._send_request(EndTxnRequest(name, -1, -1, False))
        return bool(answer.error_code != TransactionalIdAuthorizationFailed.errno)
    if right.operation == "Read":
        answer = await admin._send_request(HeartbeatRequest(right.name, -1, NOBODY))
        return bool(answer.error_code != GroupAuthorizationFailedError.errno)
    with contextlib.suppress(KafkaError):  # of which whoever uses the group will hear
        try:
            await describe_group(admin, right.name, timeout_s=settings.kafka.request_timeout_ms / 1000)
        except GroupAuthorizationFailedError:
            return False
    return True
