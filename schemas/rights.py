"""The Kafka rights that each role needs: the least set, as a table.

`tests/cluster/test_rights.py` finds the table again on a real broker: with exactly these rights each role does its
work, and with any one of them taken away it does not, and says which. Describe comes with Read, Write and Alter, so it
stands here only where a role has none of those (org.apache.kafka.common.acl.AclOperation).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, NamedTuple

from darkroom.schemas.names import Topic


class Role(StrEnum):
    """Who uses Kafka: a process of Darkroom's, or a command."""

    WORKER = "worker"
    GATEWAY = "gateway"
    HOOKS = "hooks"
    SEND = "send"
    SEND_WAIT = "send --wait"
    CANCEL = "cancel"
    WATCH = "watch"
    AUDIT = "audit"
    DLQ_LIST = "dlq list"
    DLQ_REPLAY = "dlq replay"
    INIT = "init"
    INIT_GROW = "init --grow-partitions"
    DOCTOR = "doctor"


class Resource(StrEnum):
    """Kind of thing that a right applies to, in the words of `kafka-acls`."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"


class Right(NamedTuple):
    """One operation on one resource."""

    operation: str
    """Read, Write, Describe, Create, Alter, DescribeConfigs."""
    resource: Resource
    name: str
    is_prefix: bool = False
    """`name` is the beginning of the names that are meant."""


def hooks_group(group_id: str) -> str:
    """Return the consumer group of the processes that deliver callbacks, beside that of the workers."""
    return f"{group_id}-hooks"


def rights_of(role: Role, *, prefix: str, group_id: str) -> tuple[Right, ...]:
    """Return the rights of a role in a deployment whose topics begin with `prefix`, in a fixed order."""
    found = [Right(operation, Resource.TOPIC, prefix + topic.value) for operation, topic in _TOPICS[role]]
    if role in _GROUP:
        name = hooks_group(group_id) if role is Role.HOOKS else group_id
        found.append(Right(_GROUP[role], Resource.GROUP, name))
    if role in _WRITES_OFFSETS:
        name = f"{group_id}-{prefix}{Topic.REQUESTS.value}-"
        found.append(Right("Write", Resource.TRANSACTIONAL_ID, name, is_prefix=True))
    if role is Role.DLQ_REPLAY:
        found.append(Right("Write", Resource.TRANSACTIONAL_ID, f"{prefix}{Topic.DEAD_LETTERS.value}-replay"))
    return tuple(found)


def _each(operation: str, *topics: Topic) -> tuple[tuple[str, Topic], ...]:
    return tuple((operation, topic) for topic in topics)


def _all_but(*but: Topic) -> tuple[Topic, ...]:
    return tuple(topic for topic in Topic if topic not in but)


_R, _C, _P, _X, _D = (
    Topic.REQUESTS,
    Topic.COMPLETIONS,
    Topic.PROGRESS,
    Topic.CANCELLATIONS,
    Topic.DEAD_LETTERS,
)
# Whoever may be the first to come looks whether all five topics are there, and so has to see each of them.
_TOPICS: Final[dict[Role, tuple[tuple[str, Topic], ...]]] = {
    Role.WORKER: _each("Read", _R, _X) + _each("Write", _C, _P, _D),
    Role.GATEWAY: _each("Write", _R, _X) + _each("Read", _R, _C, _P) + _each("Describe", _D),
    Role.HOOKS: _each("Read", _C) + _each("Describe", *_all_but(_C)),
    Role.SEND: _each("Write", _R) + _each("Describe", *_all_but(_R)),
    Role.SEND_WAIT: _each("Write", _R) + _each("Read", _C, _P) + _each("Describe", _X, _D),
    Role.CANCEL: _each("Write", _X) + _each("Describe", *_all_but(_X)),
    Role.WATCH: _each("Read", _C) + _each("Describe", *_all_but(_C)),
    Role.AUDIT: _each("Read", _R, _C, _D),
    Role.DLQ_LIST: _each("Read", _D),
    Role.DLQ_REPLAY: _each("Read", _D) + _each("Write", _R, _D),
    Role.INIT: _each("Read", _R) + _each("Describe", *_all_but(_R)),
    Role.INIT_GROW: _each("Read", _R) + _each("Alter", _R) + _each("Describe", *_all_but(_R)),
    Role.DOCTOR: _each("Describe", *Topic) + _each("DescribeConfigs", *Topic),
}
_GROUP: Final[dict[Role, str]] = {
    Role.WORKER: "Read",
    Role.GATEWAY: "Describe",
    Role.HOOKS: "Read",
    Role.AUDIT: "Describe",
    Role.INIT: "Read",
    Role.INIT_GROW: "Read",
}
_WRITES_OFFSETS: Final = frozenset({Role.WORKER, Role.INIT, Role.INIT_GROW})


def as_kafka_acls(rights: Iterable[Right], *, principal: str) -> str:
    """Return `kafka-acls` commands, one a line, that grant the rights."""
    lines = []
    for right in rights:
        pattern = " --resource-pattern-type prefixed" if right.is_prefix else ""
        lines.append(
            f'kafka-acls --bootstrap-server "$BOOTSTRAP" --command-config admin.properties --add --allow-principal '
            f"{principal} --operation {right.operation} --{right.resource} '{right.name}'{pattern}"
        )
    return "\n".join(lines)


def as_strimzi(rights: Iterable[Right], *, user: str) -> dict[str, object]:
    """Return a Strimzi `KafkaUser` (kafka.strimzi.io/v1) that has the rights; its cluster's label is for the reader."""
    names = {Resource.TOPIC: "topic", Resource.GROUP: "group", Resource.TRANSACTIONAL_ID: "transactionalId"}
    rules = [
        {
            "resource": {
                "type": names[right.resource],
                "name": right.name,
                "patternType": "prefix" if right.is_prefix else "literal",
            },
            "operations": [right.operation],
        }
        for right in rights
    ]
    return {
        "apiVersion": "kafka.strimzi.io/v1",
        "kind": "KafkaUser",
        "metadata": {"name": user, "labels": {"strimzi.io/cluster": "CLUSTER"}},
        "spec": {"authorization": {"type": "simple", "acls": rules}},
    }
