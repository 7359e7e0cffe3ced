"""The Python client: publish requests, follow what becomes of them, take them back.

    async with Client(load_settings()) as client:
        ids = await client.send(GenerationRequest(request_id="hello-1", prompt="a dancer on a stage"))
        outcomes = await client.wait(ids, timeout_s=120)

    async for news in client.watch("hello-1", timeout_s=120):  # Progress, and the Completion as the last
        print(news.steps_done if isinstance(news, Progress) else news.status)

A client notes where the completions end when it starts. All that it follows begins there, so whatever it sends, no
completion of it is missed, however late it begins to look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.structs import RecordMetadata

from darkroom.producer.client.arrivals import Arrivals, Identity
from darkroom.producer.kafka.broker_client import harden
from darkroom.producer.kafka.closing import close
from darkroom.producer.kafka.connection import KafkaUnavailable, connecting_to_kafka, kafka_arguments, reaching_kafka
from darkroom.producer.kafka.passed_over import PassedOver
from darkroom.producer.kafka.reader import GROWTH_CHECK_S, TopicPartition, TopicReader
from darkroom.producer.tracing import context_of, inside, sending
from darkroom.schemas.errors import ErrorCode, EventUnreadable, RequestRejected
from darkroom.schemas.events.completion import Completion, Source
from darkroom.schemas.events.progress import Cancellation, Progress
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import CLIENT_SOURCE, DEFAULT_TENANT
from darkroom.schemas.wire.codec import (
    EncodedEvent,
    decode_completion,
    decode_progress,
    encode_cancellation,
    encode_request,
)

if TYPE_CHECKING:
    from darkroom.schemas.settings import Settings

__all__ = ["Client", "KafkaUnavailable", "SendInterrupted"]

log = logging.getLogger(__name__)

SEND_AHEAD_MAX: Final = 500
"""Requests that may be on their way unacknowledged; with inline pictures they can be large."""
READ_S: Final = 1.0
"""How long one read waits for records; only bounds how late a new partition is noticed."""
TENANTS_MAX: Final = 100_000
"""Requests of other tenants than the default one whose tenant is remembered, for `wait`."""

EventT = TypeVar("EventT", Completion, Progress)


class SendInterrupted(KafkaUnavailable):
    """Kafka failed while requests were being sent. `accepted_ids` are those that it had taken before.

    Of the others any may have been taken as well. Sending them again under their ids is safe: a request id is
    rendered once.
    """

    def __init__(self, message: str, accepted_ids: Sequence[str]) -> None:
        super().__init__(message)
        self.accepted_ids = tuple(accepted_ids)


class Client:
    """Publishes requests and follows their outcomes. An async context manager, for one event loop.

    `follow=False` leaves out what only following needs; then what is followed begins when it is asked for. What only
    sending needs is left out until something is sent. `source` is the `ce_source` of what it publishes.
    Partitions that are added to a topic are taken in within `growth_check_s` seconds. Every method raises
    `KafkaUnavailable` where Kafka is not reached or has no topics yet (`darkroom.producer.kafka.topics` makes them).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        follow: bool = True,
        growth_check_s: float = GROWTH_CHECK_S,
        source: str = CLIENT_SOURCE,
    ) -> None:
        self._settings = settings
        self._source = source
        self._follow = follow
        self._growth_check_s = growth_check_s
        self._since: dict[TopicPartition, int] = {}
        self._tenants: OrderedDict[str, str] = OrderedDict()
        self._readers: set[TopicReader] = set()
        self._waited: TopicReader | None = None
        self._passed_over = PassedOver()
        self._arrivals = Arrivals(self._arrived)
        self._opening = asyncio.Lock()
        self._producer: AIOKafkaProducer | None = None
        self._starting = asyncio.Lock()

    async def __aenter__(self) -> Self:
        if self._follow:
            topics = self._settings.topics
            async with TopicReader(self._settings.kafka, (topics.completions, topics.progress)) as reader:
                self._since = await reader.stable_ends()
        return self

    async def prepare_to_send(self) -> None:
        """Connect what sends, which the first `send` or `cancel` does otherwise: whoever only reads has no need of it.

        Opening a producer takes the right to write, which readers may not have.
        """
        await self._opened_producer()

    async def _opened_producer(self) -> AIOKafkaProducer:
        async with self._starting:
            if self._producer is None:
                self._producer = await self._start_producer()
            return self._producer

    async def _start_producer(self) -> AIOKafkaProducer:
        kafka = self._settings.kafka
        producer = AIOKafkaProducer(
            **kafka_arguments(kafka),
            acks="all",
            enable_idempotence=True,
            max_request_size=self._settings.topics.max_message_bytes,
            # aiokafka's five minutes would keep partitions that were added without requests for so long.
            metadata_max_age_ms=kafka.metadata_max_age_ms,
        )
        harden(producer.client)
        try:
            async with connecting_to_kafka(kafka, "starting to send"):
                async with asyncio.timeout(kafka.request_timeout_ms / 1000):  # it asks for a producer id without limit
                    await producer.start()
        except BaseException:
            await close(producer)
            raise
        return producer

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        """Close what is open. A Kafka that does not answer is left after some seconds."""
        for reader in tuple(self._readers):
            await self._close_reader(reader)
        if self._producer is not None:
            await close(self._producer)

    # --- Publishing --------------------------------------------------------------------------------------

    async def send(
        self, requests: GenerationRequest | Iterable[GenerationRequest], *, traceparent: str | None = None
    ) -> list[str]:
        """Publish one request or several and return their ids, in order, once all of Kafka's replicas have them.

        Each is published once, however often the connection fails meanwhile (an idempotent producer). Raises
        `RequestRejected` for a request that is larger than a worker reads, before sending any of its portion of
        500, and `SendInterrupted`.

        The records carry the context of the current OpenTelemetry span, or of `traceparent` (W3C Trace Context).
        """
        several = [requests] if isinstance(requests, GenerationRequest) else requests
        accepted: list[str] = []
        iterator = iter(several)
        while portion := list(islice(iterator, SEND_AHEAD_MAX)):
            events = [self._encoded(request) for request in portion]
            for request in portion:
                self._remember_tenant(request)
            with _continuing(traceparent):
                await self._publish_portion(events, [request.request_id for request in portion], accepted)
        return accepted

    async def send_one(self, request: GenerationRequest, *, traceparent: str | None = None) -> Source:
        """Publish one request and return where it stands, once all of Kafka's replicas have it. Raises as `send`."""
        event = self._encoded(request)
        self._remember_tenant(request)
        producer = await self._opened_producer()
        with reaching_kafka(self._settings.kafka, "sending a request", operation="Write"), _continuing(traceparent):
            place = await self._sent(producer, event)
        return Source(topic=place.topic, partition=place.partition, offset=place.offset)

    async def cancel(self, request_id: str, *, tenant: str = DEFAULT_TENANT, reason: str | None = None) -> None:
        """Publish the wish that a request be not rendered. One that is finished already stays as it is.

        Raises `pydantic.ValidationError` for an id, tenant or reason that cannot be one.
        """
        cancellation = Cancellation(request_id=request_id, tenant=tenant, reason=reason)
        event = encode_cancellation(
            cancellation, event_id=str(uuid.uuid4()), time=datetime.now(UTC), source=self._source
        )
        producer = await self._opened_producer()
        with reaching_kafka(self._settings.kafka, "sending a cancellation", operation="Write"):
            await producer.send_and_wait(
                self._settings.topics.cancellations, event.value, key=event.key, headers=event.headers
            )

    async def _sent(self, producer: AIOKafkaProducer, event: EncodedEvent) -> RecordMetadata:
        topic = self._settings.topics.requests
        with sending(topic, event.key.decode()) as trace_headers:
            headers = [*event.headers, *trace_headers]
            return await producer.send_and_wait(topic, event.value, key=event.key, headers=headers)

    def _encoded(self, request: GenerationRequest) -> EncodedEvent:
        event = encode_request(
            request,
            event_id=str(uuid.uuid4()),
            time=datetime.now(UTC),
            source=self._source,
        )
        bytes_max = self._settings.limits.request_bytes_max
        if len(event.value) > bytes_max:
            raise RequestRejected(
                ErrorCode.REQUEST_TOO_LARGE,
                f"the request {request.request_id} has {len(event.value)} bytes, at most {bytes_max} are read; put "
                "its pose picture in a bucket and name it by bucket and key",
                request_id=request.request_id,
                tenant=request.tenant,
            )
        return event

    async def _publish_portion(self, events: Sequence[EncodedEvent], ids: Sequence[str], accepted: list[str]) -> None:
        """Publish events side by side, and add the ids of those that were acknowledged to `accepted`."""
        producer = await self._opened_producer()
        results = await asyncio.gather(*(self._sent(producer, event) for event in events), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        accepted += [one for one, result in zip(ids, results, strict=True) if not isinstance(result, BaseException)]
        if not failures:
            return
        try:
            with reaching_kafka(self._settings.kafka, "sending requests", operation="Write"):
                raise failures[0]
        except KafkaUnavailable as error:
            message = f"{error} {len(accepted)} requests were accepted; the others can be sent again as they are."
            raise SendInterrupted(message, accepted) from error

    def _remember_tenant(self, request: GenerationRequest) -> None:
        if request.tenant == DEFAULT_TENANT:
            return
        self._tenants[request.request_id] = request.tenant
        if len(self._tenants) > TENANTS_MAX:
            self._tenants.popitem(last=False)

    # --- Following ---------------------------------------------------------------------------------------

    async def completions(self, *, from_beginning: bool = False) -> AsyncGenerator[Completion, None]:
        """All completions, of everyone's requests, without end: since the client's start, or all there are.

        Within a partition in their order. A record that is no completion is passed over, with a line in the log.
        """
        async for completion in self._events(
            self._settings.topics.completions, decode_completion, from_beginning=from_beginning
        ):
            yield completion

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """All progress events since the client's start, without end. Any may be lost, so each says all there is."""
        async for progress in self._events(self._settings.topics.progress, decode_progress, from_beginning=False):
            yield progress

    async def watch(
        self, request_id: str, timeout_s: float, *, tenant: str | None = None
    ) -> AsyncGenerator[Progress | Completion, None]:
        """One request's progress events as they come, and its completion as the last.

        It ends without a completion when `timeout_s` has passed. Progress comes for requests that ask for it
        (`progress="steps"`), and any of it may be lost. `tenant` is as for `wait`.
        """
        identity = (tenant or self._tenants.get(request_id, DEFAULT_TENANT), request_id)
        waiting = asyncio.create_task(self.wait([request_id], timeout_s, tenant=identity[0]))
        async with contextlib.aclosing(self.progress()) as events:
            reading = asyncio.ensure_future(anext(events))
            try:
                while not waiting.done():
                    await asyncio.wait({waiting, reading}, return_when=asyncio.FIRST_COMPLETED)
                    if reading.done():
                        progress = reading.result()
                        if (progress.tenant, progress.request_id) == identity:
                            yield progress
                        reading = asyncio.ensure_future(anext(events))
            finally:
                for task in (waiting, reading):
                    task.cancel()
                await asyncio.gather(waiting, reading, return_exceptions=True)
        completion = (await waiting).get(request_id)
        if completion is not None:
            yield completion

    async def wait(self, ids: Collection[str], timeout_s: float, *, tenant: str | None = None) -> dict[str, Completion]:
        """The completions of these request ids, once there is one for each or `timeout_s` has passed.

        Ids without a completion by then are not in the answer. `tenant` is that under which this client sent the
        id, else the default one, unless given. Any number of tasks may wait at once.
        """
        identities: dict[Identity, str] = {
            (tenant or self._tenants.get(request_id, DEFAULT_TENANT), request_id): request_id for request_id in ids
        }
        found = await self._arrivals.wait(identities.keys(), timeout_s)
        return {identities[identity]: completion for identity, completion in found.items()}

    async def _arrived(self, timeout_s: float) -> list[Completion]:
        """What `wait` reads, from the client's start on."""
        async with self._opening:
            if self._waited is None:
                self._waited = await self._open(self._settings.topics.completions, from_beginning=False)
        return await self._read(self._waited, timeout_s, decode_completion)

    async def _events(
        self, topic: str, decode: Callable[[bytes | None, Any], EventT], *, from_beginning: bool
    ) -> AsyncGenerator[EventT, None]:
        reader = await self._open(topic, from_beginning=from_beginning)
        try:
            while True:
                for event in await self._read(reader, READ_S, decode):
                    yield event
        finally:
            await self._close_reader(reader)

    async def _open(self, topic: str, *, from_beginning: bool) -> TopicReader:
        """A reader that is closed with the client at the latest."""
        reader = await TopicReader(self._settings.kafka, (topic,), growth_check_s=self._growth_check_s).start()
        self._readers.add(reader)
        if from_beginning:
            positions = await reader.beginnings()
        elif self._follow:
            # Partitions that were added since the client's start are read from their beginning.
            positions = {partition: self._since.get(partition, 0) for partition in reader.partitions}
        else:
            positions = await reader.stable_ends()
        reader.start_at(positions)
        return reader

    async def _close_reader(self, reader: TopicReader) -> None:
        self._readers.discard(reader)
        await reader.close()

    async def _read(
        self, reader: TopicReader, timeout_s: float, decode: Callable[[bytes | None, Any], EventT]
    ) -> list[EventT]:
        await reader.look_for_growth()
        events = []
        for record in await reader.read(timeout_s):
            try:
                events.append(decode(record.value, record.headers))
            except EventUnreadable as error:
                if told := self._passed_over.add(record, error.message):
                    log.warning("%s", told)
        return events


def _continuing(traceparent: str | None) -> contextlib.AbstractContextManager[None]:
    """Make a given trace context the current one; the current one stays where none is given."""
    return contextlib.nullcontext() if traceparent is None else inside(context_of([("traceparent", traceparent)]))
