"""Explains which right Kafka says is missing, on what, and for whom.

Kafka answers with a code and, at best, a name; what the right is follows from the resource. aiokafka 0.14 puts the name
into the error's first argument, or nothing, or a set of names, or hides the error as the cause of a bare `KafkaError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from aiokafka import errors

if TYPE_CHECKING:
    from schemas.settings import KafkaSettings

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


def denial(error: BaseException, kafka: KafkaSettings) -> str | None:
    """Return a sentence with the missing right and the remedy; None where the error is not about rights."""
    denied = next((one for one in chain(error) if isinstance(one, DENIED)), None)
    if denied is None:
        return None
    right = _right(denied, kafka.group_id)
    return f"{user_of(kafka)} lacks {right}. Grant it; `darkroom rights` prints what each role needs."


def hidden_topic(topic: str, kafka: KafkaSettings, operation: str = "Describe") -> str:
    """Return the sentence for a topic that Kafka does not show: it hides what a user may not see."""
    return (
        f"Kafka does not show the topic {topic}: {user_of(kafka)} lacks {operation} on it, or it is not there and may "
        f"not be made. Grant {operation} on the topic {topic}, or let an administrator run `darkroom init`; `darkroom "
        "rights` prints what each role needs."
    )


def user_of(kafka: KafkaSettings) -> str:
    """Return whom the broker takes us for, as far as the settings tell."""
    if kafka.sasl_username:
        return f"The Kafka user {kafka.sasl_username}"
    return "The owner of the certificate" if kafka.ssl_certfile else "The Kafka user ANONYMOUS"


def _right(denied: BaseException, group_id: str) -> str:
    about = str(denied.args[0]) if denied.args and isinstance(denied.args[0], str) else ""
    if isinstance(denied, errors.GroupAuthorizationFailedError):
        return f"Read (a worker, init) or Describe (others) on the group {group_id}"
    if isinstance(denied, errors.TransactionalIdAuthorizationFailed):
        return f"Write on the transactional id {about}" if about else "Write on its transactional ids"
    if isinstance(denied, errors.ClusterAuthorizationFailedError):
        return "IdempotentWrite on the cluster"
    return f"Write or Read on the topic {about}" if about else "a right on a topic"
