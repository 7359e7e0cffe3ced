"""Replays dead letters: takes back the failed outcome that was decided, and publishes the record again.

The new record and a note on the dead letters topic are one transaction, so a replay is there with its note or not at
all, and whoever comes later knows what was done. All replays of a deployment share one transactional id: starting one
fences another that still runs and settles its transaction, and only then are the notes read. So a replay that is
repeated, interrupted anywhere or run twice at once publishes each record again at most once.

The outcome is deleted inside the transaction, after the broker took both records (which it does not of one that was
fenced) and before they can be read: no worker finds the old outcome for the new record. A replay that dies between
deletes the outcome and publishes nothing; the next one publishes.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import TYPE_CHECKING, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaError, MessageSizeTooLargeError, ProducerFenced
from aiokafka.partitioner import DefaultPartitioner

from darkroom.producer.kafka.broker_client import harden
from darkroom.producer.kafka.closing import CLOSE_S_MAX, close
from darkroom.producer.kafka.connection import KafkaUnavailable, kafka_arguments, reaching_kafka
from darkroom.producer.kafka.record_batches import Headers, SingleRecordBatch
from darkroom.producer.outcomes.dead_letter_log import DeadLetterLog, Filter, Letter
from darkroom.producer.outcomes.dead_letters import LetterUnreadable, Original, coordinates, identity_of
from darkroom.producer.outcomes.outcomes import Outcomes, OutcomeUnreadable
from darkroom.producer.store.objects import Objects
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Status
from darkroom.schemas.names import ReplayHeader, result_key

if TYPE_CHECKING:
    from aiokafka.structs import RecordMetadata

    from darkroom.schemas.settings import Settings


class ReplayFenced(Exception):  # noqa: N818 - Kafka's word
    """Another replay was started meanwhile, and goes on in this one's place."""


class Action(StrEnum):
    """Result of a replay."""

    REPLAYED = "replayed"
    WOULD_REPLAY = "would_replay"
    """Of a dry run."""
    ALREADY_REPLAYED = "already_replayed"
    NOT_NEEDED = "not_needed"
    """Another record decided the request, or it did not fail: there is nothing to take back."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Replay:
    """One letter and the result of its replay."""

    letter: Letter
    action: Action
    message: str
    took_back: str | None = None
    """The key of the outcome that was deleted, or in a dry run would be."""
    replayed_as: str | None = None
    """The coordinates of the new record."""


class Replayer:
    """Replays the letters of one deployment, one at a time. An async context manager.

    Enter it before reading the letters that are to be replayed: the notes of what another did are complete then.
    With `dry_run` it changes nothing, and fences nobody.
    """

    def __init__(self, settings: Settings, objects: Objects, log: DeadLetterLog, *, dry_run: bool = False) -> None:
        self._settings = settings
        self._objects = objects
        self._outcomes = Outcomes(objects)
        self._log = log
        self._dry_run = dry_run
        self._producer: AIOKafkaProducer | None = None
        self._notes_are_old = False

    async def __aenter__(self) -> Self:
        """Raises `KafkaUnavailable`."""
        if not self._dry_run:
            await self._start()
        return self

    async def _start(self) -> None:
        """Fence whoever replays, this one's own earlier producer included."""
        kafka = self._settings.kafka
        self._producer = AIOKafkaProducer(
            **kafka_arguments(kafka),
            transactional_id=f"{self._settings.topics.dead_letters}-replay",
            transaction_timeout_ms=kafka.transaction_timeout_ms,
        )
        harden(self._producer.client)
        try:
            with reaching_kafka(kafka, "starting a replay"):
                async with asyncio.timeout(kafka.request_timeout_ms / 1000):  # it asks for its epoch without limit
                    await self._producer.start()
        except BaseException:
            await self._stop()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def replay(self, letter: Letter) -> Replay:
        """Replay a letter that was read after this was entered.

        What is wrong with the letter itself is `Action.FAILED`. Raises `KafkaUnavailable`, `StoreUnavailable` and
        `ReplayFenced`, after which this is of no further use; whether the letter was replayed is then known to
        whoever reads the letters again.
        """
        if self._notes_are_old:
            letter = next(iter(await self._log.letters(Filter(frozenset({letter.name})))), letter)
        if letter.replayed_as is not None:
            message = f"It was replayed before, as {letter.replayed_as}."
            return Replay(letter, Action.ALREADY_REPLAYED, message, replayed_as=letter.replayed_as)
        if letter.origin.code == ErrorCode.BATCH_UNREADABLE:
            message = (
                f"It is no record but a batch that cannot be read: `darkroom dlq show {letter.name} --raw` has it."
            )
            return Replay(letter, Action.FAILED, message)
        try:
            original = await self._log.original(letter)
            to_take_back, why_not = await self._standing(letter, original)
            if why_not is not None:
                return Replay(letter, Action.NOT_NEEDED, why_not)
            if self._dry_run:
                return Replay(letter, Action.WOULD_REPLAY, _told(to_take_back, dry=True), to_take_back)
            replayed_as = await self._publish(letter, original, to_take_back)
        except (LetterUnreadable, OutcomeUnreadable) as error:
            return Replay(letter, Action.FAILED, f"It cannot be replayed: {error}.")
        return Replay(letter, Action.REPLAYED, _told(to_take_back, dry=False), to_take_back, replayed_as)

    async def _standing(self, letter: Letter, original: Original) -> tuple[str | None, str | None]:
        """The key of the outcome to take back where there is one, and why there is no need to replay, if so."""
        identity = None if letter.request_id is None else identity_of(original)
        if identity is None:
            return None, None
        standing = await self._outcomes.find(*identity)
        if standing is None:
            return None, None
        if standing.status is Status.FAILED and standing.source == letter.origin.source:
            return result_key(*identity, prefix=self._objects.prefix), None
        if standing.status is Status.ERASED:
            return None, f"The request {'/'.join(identity)} was erased. Nothing was done."
        decided = f"The request {'/'.join(identity)} is decided as {standing.status.value}"
        return None, f"{decided} by the record {coordinates(standing.source)}. Nothing was done."

    async def _publish(self, letter: Letter, original: Original, to_take_back: str | None) -> str:
        """The transaction. Returns the new record's coordinates."""
        assert self._producer is not None
        kafka, topics, name = self._settings.kafka, self._settings.topics, letter.name.encode()
        theirs = [(header, content) for header, content in original.headers if header not in list(ReplayHeader)]
        headers = [*theirs, (ReplayHeader.OF.value, name)]
        try:
            with reaching_kafka(kafka, f"replaying {letter.name}"):
                async with asyncio.timeout(kafka.transaction_timeout_ms / 1000):
                    await self._producer.begin_transaction()
                    sent = await self._repeat(topics.requests, original, headers)
                    replayed_as = f"{sent.topic}-{sent.partition}-{sent.offset}"
                    note = [(ReplayHeader.OF.value, name), (ReplayHeader.AS.value, replayed_as.encode())]
                    await self._producer.send_and_wait(topics.dead_letters, b"", key=name, headers=note)
                    if to_take_back is not None:
                        await self._take_back(to_take_back, original)
                    await self._producer.commit_transaction()
        except KafkaUnavailable as error:
            await self._give_up()
            raise _meant(error) from error
        except LetterUnreadable:
            # The batch that was refused has left a gap in the sequence: aiokafka cannot go on with this producer.
            await self._stop()
            await self._start()
            self._notes_are_old = True  # another replay may have come and gone between
            raise
        except BaseException:
            await self._give_up()
            raise
        return replayed_as

    async def _take_back(self, key: str, original: Original) -> None:
        """Delete the failed outcome, unless a tombstone has taken its place since it was looked up."""
        identity = identity_of(original)
        standing = None if identity is None else await self._outcomes.find(*identity)
        if standing is not None and standing.status is Status.ERASED:
            raise LetterUnreadable("its request was erased meanwhile")
        await self._objects.delete(key)

    async def _repeat(self, topic: str, original: Original, headers: Headers) -> RecordMetadata:
        """Publish the record byte for byte, which aiokafka's `send` can do of most records alone."""
        assert self._producer is not None
        partitions = sorted(await self._producer.partitions_for(topic))
        # Compressed: an original that was compressed may be above the limit without.
        batch = SingleRecordBatch(
            key=original.key, value=original.value, headers=headers, transactional=True, compressed=True
        )
        partition = DefaultPartitioner()(original.key, partitions, partitions)
        try:
            sent: RecordMetadata = await (await self._producer.send_batch(batch, topic, partition=partition))
        except MessageSizeTooLargeError as error:
            raise LetterUnreadable(
                f"with the header that names its origin it is too large for {topic}; raise that topic's "
                "max.message.bytes"
            ) from error
        return sent

    async def _give_up(self) -> None:
        """Abort what is open, if that is still possible; otherwise the broker does when the time is up."""
        assert self._producer is not None
        # aiokafka asserts that the transaction can still be aborted.
        with contextlib.suppress(KafkaError, OSError, TimeoutError, AssertionError):
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._producer.abort_transaction()

    async def _stop(self) -> None:
        if self._producer is not None:
            await close(self._producer)


def _meant(error: KafkaUnavailable) -> Exception:
    """A fence among what Kafka said is another replay; everything else is Kafka's absence."""
    if isinstance(error.__cause__, (ProducerFenced, InvalidProducerEpoch)):
        return ReplayFenced("Another replay of the same dead letters was started and took over. Let it finish.")
    return error


def _told(taken_back: str | None, *, dry: bool) -> str:
    if taken_back is None:
        return "No outcome stands for it." if dry else "No outcome stood for it."
    return f"The failed outcome {taken_back} {'would be' if dry else 'was'} taken back."
