"""Tells a broker's refusal of a transaction, which stays, from a failure that may pass.

What aiokafka 0.14 raises was run on Kafka 4.2 with an authorizer. Some refusals arrive as a bare `KafkaError`
("Unexpected error during batch delivery") with the broker's answer in `__cause__`, so the whole chain is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aiokafka import errors

from darkroom.consumer.core.events import Refusal
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.worker.ports import PublicationRefused
from darkroom.producer.kafka.denials import DENIED, chain, denial
from darkroom.producer.kafka.remedies import CLOCKS
from darkroom.schemas.settings import KafkaSettings


def refused(
    error: BaseException, partition: PartitionKey, kafka: KafkaSettings, *, missing: str | None = None
) -> PublicationRefused | None:
    """Return the verdict on a transaction of `partition`; None where the failure may pass.

    `missing` is a topic that the cluster does not know.
    """
    what = f"Partition {partition.partition} of {partition.topic} cannot publish"
    for one in chain(error):
        for kinds, refusal, sentence in _VERDICTS:
            if isinstance(one, kinds):
                return PublicationRefused(refusal, f"{what}: {sentence(one, partition, kafka)}")
    if missing is not None:
        return PublicationRefused(Refusal.TOPIC, f"{what}: {_no_topic(missing)}")
    return None


def _right(error: BaseException, partition: PartitionKey, kafka: KafkaSettings) -> str:
    """Return which right is missing on what, as far as the broker says."""
    own = bool(error.args) and error.args[0] == partition.topic
    said = denial(error, kafka, operation="Read" if own else "Write", group_operation="Read")
    assert said is not None
    return said


def _no_topic(topic: str) -> str:
    return (
        f"the topic {topic} is not there, or the worker's user may not describe it. Make it with `darkroom init`, or "
        "grant Describe on it."
    )


def _too_large(_error: BaseException, _partition: PartitionKey, _kafka: KafkaSettings) -> str:
    return (
        "a record is larger than its topic allows. Raise max.message.bytes of the completions and dead-letters topics "
        "to DARKROOM_TOPICS__MAX_MESSAGE_BYTES."
    )


def _too_much_metadata(_error: BaseException, _partition: PartitionKey, _kafka: KafkaSettings) -> str:
    return (
        "the broker allows less metadata beside an offset than Kafka's default. The worker makes do with less; raise "
        "offset.metadata.max.bytes to 4096."
    )


def _topic_gone(error: BaseException, _partition: PartitionKey, _kafka: KafkaSettings) -> str:
    return _no_topic(str(error.args[0]) if error.args else "that it publishes to")


def _other_time(_error: BaseException, _partition: PartitionKey, _kafka: KafkaSettings) -> str:
    return CLOCKS


def _refused(error: BaseException, _partition: PartitionKey, _kafka: KafkaSettings) -> str:
    return f"the broker refuses it ({error})."


_Sentence = Callable[[BaseException, PartitionKey, KafkaSettings], str]
_VERDICTS: Final[tuple[tuple[tuple[type[BaseException], ...], Refusal, _Sentence], ...]] = (
    ((errors.MessageSizeTooLargeError, errors.RecordListTooLargeError), Refusal.SIZE, _too_large),
    ((errors.OffsetMetadataTooLargeError,), Refusal.METADATA, _too_much_metadata),
    (DENIED, Refusal.RIGHTS, _right),
    ((errors.UnknownTopicOrPartitionError, errors.InvalidTopicError), Refusal.TOPIC, _topic_gone),
    ((errors.InvalidTimestampError,), Refusal.OTHER, _other_time),
    ((errors.PolicyViolationError, errors.InvalidRequiredAcksError), Refusal.OTHER, _refused),
)
