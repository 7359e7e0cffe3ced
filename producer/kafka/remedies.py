"""Explains errors of Kafka's whose remedy is neither a broker nor a right: contradictions between cluster and settings.

Used beside `denials`, which does so for rights: a general "check that it runs" would send people astray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiokafka import errors

from darkroom.producer.kafka.denials import chain

if TYPE_CHECKING:
    from darkroom.schemas.settings import KafkaSettings

__all__ = ["CLOCKS", "remedy"]

CLOCKS = (
    "the broker finds the time of a record too far from its own (INVALID_TIMESTAMP): the broker's clock and this "
    "machine's differ by more than message.timestamp.after.max.ms or message.timestamp.before.max.ms of the topic. Set "
    "both clocks by NTP, or raise those of the topic."
)


def remedy(error: BaseException, kafka: KafkaSettings) -> str | None:
    """Return what is wrong and what to do, for an error or one of its causes; None where nothing more is known."""
    for one in chain(error):
        if isinstance(one, errors.InconsistentGroupProtocolError):
            return (
                f"the group {kafka.group_id} has members of another kind, which share no work with Darkroom's workers. "
                "Let DARKROOM_KAFKA__GROUP_ID name a group of this deployment's own, and run `darkroom init`."
            )
        if isinstance(one, errors.InvalidTimestampError):
            return CLOCKS
    return None
