"""Stands in for a worker on the real Kafka: reads requests, and publishes outcomes with offsets in transactions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Self

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import OffsetAndMetadata

from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.reader import TopicReader
from darkroom.producer.outcomes.completions import Answered
from darkroom.producer.outcomes.dead_letters import DeadLetter
from darkroom.schemas.events.completion import Completion, Source
from darkroom.schemas.events.progress import Progress
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import EncodedEvent, decode_request, encode_completion, encode_progress
from tests.producer.examples import success

LIMIT_S = 30.0


def source_of(record: Any) -> Source:
    """Where a record stands."""
    return Source(topic=record.topic, partition=record.partition, offset=record.offset)


def answered_of(record: Any, **changes: Any) -> Answered:
    """What a completion says of a record."""
    decoded = decode_request(record.value, record.headers, record.key)
    values: dict[str, Any] = {
        "request_id": decoded.request.request_id,
        "tenant": decoded.request.tenant,
        "event_id": decoded.event_id or "none",
        "source": source_of(record),
        "request_digest": decoded.digest,
        "worker": "answerer",
        "requested_at": decoded.requested_at,
        "labels": decoded.request.labels,
    }
    return Answered(**values | changes)


def rendered(record: Any) -> Completion:
    """A completion of a record, with a picture that nobody stored."""
    about = answered_of(record)
    return success(
        request_id=about.request_id,
        tenant=about.tenant,
        event_id=about.event_id,
        source=about.source,
        request_digest=about.request_digest,
        worker="answerer",
        requested_at=about.requested_at,
        warnings=(),
    ).model_copy(update={"completed_at": datetime.now(UTC)})


class Answerer:
    """One reader of the requests and one transactional writer. An async context manager."""

    def __init__(self, settings: Settings, *, transactional_id: str | None = None) -> None:
        self.settings = settings
        self._transactional_id = transactional_id or f"{settings.kafka.group_id}-answerer"
        self._pending: list[Any] = []

    async def __aenter__(self) -> Self:
        self._stack = contextlib.AsyncExitStack()
        topic = self.settings.topics.requests
        self.requests = await self._stack.enter_async_context(TopicReader(self.settings.kafka, (topic,)))
        self.requests.start_at(await self.requests.beginnings())
        self.writer = AIOKafkaProducer(
            **kafka_arguments(self.settings.kafka),
            transactional_id=self._transactional_id,
            transaction_timeout_ms=10_000,
        )
        await self.writer.start()
        self._stack.push_async_callback(self.writer.stop)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def take(self, count: int) -> list[Any]:
        """The next `count` requests' records."""
        deadline = time.monotonic() + LIMIT_S
        while len(self._pending) < count:
            assert time.monotonic() < deadline, f"{len(self._pending)} of {count} requests came"
            self._pending += await self.requests.read(0.2)
        taken, self._pending = self._pending[:count], self._pending[count:]
        return taken

    async def publish(
        self,
        outcomes: Sequence[Completion | DeadLetter] = (),
        *,
        offsets: Mapping[int, tuple[int, str]] | None = None,
        abort: bool = False,
    ) -> None:
        """Outcomes, and offsets with their metadata by partition, in one transaction."""
        await self.begin(outcomes)
        if offsets:
            topic = self.settings.topics.requests
            places = {TopicPartition(topic, number): OffsetAndMetadata(*at) for number, at in offsets.items()}
            await self.writer.send_offsets_to_transaction(places, self.settings.kafka.group_id)
        await (self.writer.abort_transaction() if abort else self.writer.commit_transaction())

    async def begin(self, outcomes: Sequence[Completion | DeadLetter]) -> None:
        """The first half of a transaction, left open."""
        topics = self.settings.topics
        await self.writer.begin_transaction()
        for outcome in outcomes:
            if isinstance(outcome, Completion):
                await self.send(topics.completions, encode_completion(outcome))
            else:
                await self.send(topics.dead_letters, EncodedEvent(outcome.key, outcome.value, outcome.headers))

    async def send(self, topic: str, event: EncodedEvent) -> None:
        """One record of the open transaction."""
        await self.writer.send_and_wait(topic, event.value, key=event.key, headers=event.headers)

    async def tell(self, *progress: Progress) -> None:
        """Progress events, in a transaction of their own."""
        await self.writer.begin_transaction()
        for one in progress:
            await self.send(self.settings.topics.progress, encode_progress(one))
        await self.writer.commit_transaction()


@contextlib.asynccontextmanager
async def answering(
    settings: Settings, make: Callable[[Any], Completion | None] = rendered
) -> AsyncIterator[asyncio.Task[None]]:
    """Answers every request as it comes, until left. `make` gives the completion of a record, or None for none."""

    async def work(answerer: Answerer) -> None:
        while True:
            (record,) = await answerer.take(1)
            completion = make(record)
            if completion is not None:
                await answerer.publish([completion], offsets={record.partition: (record.offset + 1, "")})

    async with Answerer(settings) as answerer:
        task = asyncio.create_task(work(answerer))
        try:
            yield task
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
