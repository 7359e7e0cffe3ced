"""Reads whole topics without a consumer group: committed records only, from wherever the caller says.

Followers of completions, the command line and the audit read so. Nothing is committed and nobody's partitions move.
Progress is told by positions, never by the offsets of records: commit markers, aborted records and compacted gaps take
offsets too and are never delivered, so a reader that waited for a certain offset would wait for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from aiokafka import TopicPartition
from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaTimeoutError, TopicAuthorizationFailedError
from aiokafka.protocol.metadata import MetadataRequest

from darkroom.producer.kafka.administrator import Administrator
from darkroom.producer.kafka.broker_client import CLUSTER_S_MAX
from darkroom.producer.kafka.client_tasks import ended_task
from darkroom.producer.kafka.closing import close
from darkroom.producer.kafka.connection import (
    KafkaDenied,
    KafkaUnavailable,
    administering,
    kafka_arguments,
    reaching_kafka,
)
from darkroom.producer.kafka.consuming import FETCH_BYTES_MAX, RecordConsumer
from darkroom.producer.kafka.denials import lacks
from darkroom.producer.outages import KAFKA

if TYPE_CHECKING:
    from darkroom.schemas.settings import KafkaSettings

__all__ = ["TopicPartition", "TopicReader", "partitions_of"]

GROWTH_CHECK_S: Final = 30.0
"""How often partitions that were added are looked for."""


async def partitions_of(kafka: KafkaSettings, topics: Collection[str]) -> frozenset[TopicPartition]:
    """Return all partitions of these topics. Raises `KafkaUnavailable`, also where one of them is not there.

    All topics are asked for: aiokafka's question for a topic by its name lets a broker with `auto.create.topics.enable`
    make it, with the broker's partitions and retention. Raises `KafkaDenied` for one that this user may not see.
    """
    async with administering(kafka, "looking for the topics") as admin:
        described = await admin.describe_topics()
        wanted = set(topics)
        found = {
            one["topic"]: one["partitions"] for one in described if one["topic"] in wanted and one["error_code"] == 0
        }
        if missing := sorted(wanted - found.keys()):
            raise await _missing(admin, kafka, missing)
    return frozenset(TopicPartition(topic, one["partition"]) for topic, all_ in found.items() for one in all_)


class TopicReader:
    """All partitions of some topics. For one task at a time.

    `growth_check_s` is how often partitions that were added are looked for, by `look_for_growth`.

    Every method raises `KafkaUnavailable` where Kafka does not do its part, or has no such topic.
    """

    def __init__(self, kafka: KafkaSettings, topics: Sequence[str], *, growth_check_s: float = GROWTH_CHECK_S) -> None:
        self._kafka = kafka
        self._topics = tuple(topics)
        self._arguments = kafka_arguments(kafka)
        self._consumer: Any = None
        self._growth_check_s = growth_check_s
        self._checked_at = 0.0

    async def __aenter__(self) -> Self:
        return await self.start()

    async def start(self) -> Self:
        """Connect. Nothing is read before `start_at`."""
        self._partitions = await partitions_of(self._kafka, self._topics)
        self._consumer = RecordConsumer(
            **self._arguments,
            isolation_level="read_committed",
            auto_offset_reset="earliest",  # only where retention overtakes the position
            enable_auto_commit=False,
            fetch_max_bytes=FETCH_BYTES_MAX,
        )
        with self._reaching("starting to read"):
            await _start(self._consumer)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        """The partitions, as of the start or of the last look."""
        return self._partitions

    async def beginnings(self) -> dict[TopicPartition, int]:
        """The first offset of each partition that is still there."""
        with self._reaching("asking for offsets"):
            return await _until_told(lambda: self._consumer.beginning_offsets(sorted(self._partitions)))

    async def stable_ends(self) -> dict[TopicPartition, int]:
        """The last stable offset of each partition: what is before it is there for everyone and will not change."""
        with self._reaching("asking for offsets"):
            return await _until_told(lambda: self._consumer.end_offsets(sorted(self._partitions)))

    async def high_watermarks(self) -> dict[TopicPartition, int]:
        """Where each partition ends, records of open transactions included."""
        # A consumer is told the end of what it may read, so one that may read everything has to ask.
        everything = RecordConsumer(**self._arguments, enable_auto_commit=False)
        with self._reaching("asking for offsets"):
            await _start(everything)
            try:
                return await _until_told(lambda: everything.end_offsets(sorted(self._partitions)))
            finally:
                await close(everything)

    def start_at(self, positions: Mapping[TopicPartition, int]) -> None:
        """Read from these positions, and no partition that is not among them."""
        self._consumer.assign(sorted(positions))
        for partition, offset in positions.items():
            self._consumer.seek(partition, offset)
        self._checked_at = time.monotonic()

    def leave_out(self, partition: TopicPartition) -> None:
        """Read no more of a partition."""
        self._consumer.pause(partition)

    async def read(self, timeout_s: float) -> list[Any]:
        """The next records (aiokafka's), or none after `timeout_s`. Never cancelled inside of a fetch by itself."""
        with self._reaching("reading"):
            if (ended := ended_task(self._consumer)) is not None:
                raise KafkaUnavailable(f"The reader of {' and '.join(self._topics)} cannot go on: {ended}.")
            batches = await self._consumer.getmany(timeout_ms=max(0, int(timeout_s * 1000)))
        return [record for batch in batches.values() for record in batch]

    async def position(self, partition: TopicPartition) -> int:
        """The offset from which reading goes on."""
        with self._reaching("reading"):
            async with asyncio.timeout(self._kafka.request_timeout_ms / 1000):
                position: int = await self._consumer.position(partition)
                return position

    async def look_for_growth(self) -> None:
        """Take in partitions that were added, from their beginning. Does nothing most of the time.

        A Kafka that is away for a while ends no reading: this tries again later, and so does aiokafka.
        """
        if time.monotonic() - self._checked_at < self._growth_check_s:
            return
        self._checked_at = time.monotonic()
        try:
            added = await partitions_of(self._kafka, self._topics) - self._partitions
        except KafkaUnavailable as error:
            KAFKA.failed("growth", error)
            return
        KAFKA.answered("growth")
        if added:
            positions = {one: await self.position(one) for one in self._consumer.assignment()}
            self.start_at(positions | dict.fromkeys(added, 0))
            self._partitions |= added

    @contextlib.contextmanager
    def _reaching(self, doing: str) -> Iterator[None]:
        topics = " and ".join(self._topics)
        with reaching_kafka(self._kafka, f"{doing} of {topics}", operation="Read"):
            try:
                yield
            except (ConsumerStoppedError, IllegalStateError) as error:
                raise KafkaUnavailable(f"The reader of {topics} was closed.") from error

    async def close(self) -> None:
        """Stop reading. Idempotent, and bounded in time."""
        await close(self._consumer)


async def _start(consumer: RecordConsumer) -> None:
    try:
        await consumer.start()
    except BaseException:
        await close(consumer)
        raise


async def _until_told(ask: Callable[[], Awaitable[dict[TopicPartition, int]]]) -> dict[TopicPartition, int]:
    """Ask for offsets until every partition's leader has told, or raise the last error after `CLUSTER_S_MAX`."""
    deadline = time.monotonic() + CLUSTER_S_MAX
    while True:
        try:
            return dict(await ask())
        except KafkaTimeoutError:
            if time.monotonic() > deadline:
                raise


async def _missing(admin: Administrator, kafka: KafkaSettings, topics: Sequence[str]) -> KafkaUnavailable:
    """Return the error for topics that Kafka does not list: it says of each that is asked for by name why."""
    # With this, no broker makes a topic that it is asked for.
    answer = await admin._send_request(MetadataRequest(list(topics), allow_auto_topic_creation=False))
    codes = {one["topic"]: one["error_code"] for one in answer.to_object()["topics"]}
    if hidden := [one for one in topics if codes.get(one) == TopicAuthorizationFailedError.errno]:
        return KafkaDenied(lacks(kafka, [f"Describe (which comes with Read and Write) on the topic {hidden[0]}"]))
    return KafkaUnavailable(
        f"Kafka does not have the topic {' or '.join(topics)}. Start a worker (`darkroom serve`) or send a request "
        "(`darkroom send`): either makes the topics; and check DARKROOM_TOPICS__PREFIX."
    )
