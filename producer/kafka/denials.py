"""Explains which right Kafka says is missing, on what, and for whom.

Kafka answers with a code and, at best, a name; what the right is follows from the resource. aiokafka 0.14 puts the name
into the error's first argument, or nothing, or a set of names, or hides the error as the cause of a bare `KafkaError`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from aiokafka import errors

from darkroom.schemas.rights import Resource, Right

if TYPE_CHECKING:
    from darkroom.schemas.settings import KafkaSettings

CHAIN_MAX: Final = 8
"""Causes looked at; aiokafka nests two."""

DENIED: Final = (
    errors.TopicAuthorizationFailedError,
    errors.GroupAuthorizationFailedError,
    errors.ClusterAuthorizationFailedError,
    errors.TransactionalIdAuthorizationFailed,
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it, the outermost first, within a bound."""
    at: BaseException | None = error
    for _ in range(CHAIN_MAX):
        if at is None:
            return
        yield at
        at = at.__cause__ or at.__context__


def denial(
    error: BaseException, kafka: KafkaSettings, *, operation: str | None = None, group_operation: str | None = None
) -> str | None:
    """Return a sentence with the missing right and the remedy; None where the error is not about rights.

    `operation` is the right on a topic, and `group_operation` the right on the group, that was used, where it is known.
    """
    denied = next((one for one in chain(error) if isinstance(one, DENIED)), None)
    if denied is None:
        return None
    return lacks(kafka, [_right(denied, kafka.group_id, operation, group_operation)])


def lacks(kafka: KafkaSettings, rights: Sequence[str], *, role: str | None = None) -> str:
    """Return the sentence for missing rights ("Read on the topic generation.requests"), with the remedy."""
    what = "what each role needs" if role is None else f"all that {role} needs"
    option = "" if role is None else f" --role {_quoted(role)}"
    them = "it" if len(rights) == 1 else "them"
    return f"{user_of(kafka)} lacks {', '.join(rights)}. Grant {them}; `darkroom rights{option}` prints {what}."


def hidden_topic(topic: str, kafka: KafkaSettings) -> str:
    """Return the sentence for a topic that Kafka does not show, and does not let this user make either."""
    return (
        f"Kafka does not show the topic {topic}, and does not let it be made. {user_of(kafka)} lacks Describe (which "
        f"comes with Read and Write) on the topic {topic}, or Create. Grant it, or let an administrator run `darkroom "
        "init`; `darkroom rights` prints what each role needs."
    )


def user_of(kafka: KafkaSettings) -> str:
    """Return whom the broker takes us for, as far as the settings tell."""
    if kafka.oauth_client_id:
        return f"The Kafka user of the OAuth client {kafka.oauth_client_id}"
    if kafka.sasl_username:
        return f"The Kafka user {kafka.sasl_username}"
    return "The owner of the certificate" if kafka.ssl_certfile else "The Kafka user ANONYMOUS"


def named(right: Right) -> str:
    """Return a right as a part of a sentence."""
    kind = {Resource.TOPIC: "topic", Resource.GROUP: "group", Resource.TRANSACTIONAL_ID: "transactional id"}
    if right.is_prefix:
        return f"{right.operation} on the transactional ids that begin with {right.name}"
    return f"{right.operation} on the {kind[right.resource]} {right.name}"


def _quoted(role: str) -> str:
    return f"'{role}'" if " " in role else role


def _right(denied: BaseException, group_id: str, operation: str | None, group_operation: str | None) -> str:
    about = _about(denied)
    if isinstance(denied, errors.GroupAuthorizationFailedError):
        return f"{group_operation or 'Read (a worker, init) or Describe (others)'} on the group {group_id}"
    if isinstance(denied, errors.TransactionalIdAuthorizationFailed):
        return f"Write on the transactional id {about}" if about else "Write on its transactional ids"
    if isinstance(denied, errors.ClusterAuthorizationFailedError):
        return "IdempotentWrite on the cluster"
    return f"{operation or 'Read or Write'} on the topic {about}" if about else f"{operation or 'a right'} on a topic"


def _about(denied: BaseException) -> str:
    """Return the names that aiokafka puts into an error: one, several, or none."""
    first = denied.args[0] if denied.args else ""
    if isinstance(first, str):
        return first
    return ", ".join(sorted(map(str, first))) if isinstance(first, Collection) else ""
