"""Records spans of the requests that a worker handles, after the fact: from moments that are kept anyway.

So a worker that records nothing does nothing for it, and one that records does it beside the publication. A request's
spans go on from the context that its record carries:

- `process TOPIC` from the worker's taking the request to the commit of its completion, with `prepare`, `device`,
  `finish` and `store` below it, and `send TOPIC`, whose context the completion's headers carry;
- `poll TOPIC` and `commit TOPIC`, which are of many requests at a time and belong to none: each is a trace of its own
  that links to the requests' contexts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, get_current_span, set_span_in_context

from darkroom.consumer.core.partition_key import JobKey
from darkroom.consumer.worker.payload import Payload
from darkroom.consumer.worker.ports import Delivery
from darkroom.producer.tracing import LINKS_MAX, TRACER, child, context_of, headers_of, ids_of, messaging
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.completion import Status as Ended

_NS: Final = 1_000_000_000


class Publishing(NamedTuple):
    """The spans of a request whose completion is on its way."""

    process: Span
    send: Span
    began_ns: int
    """When the record was made, in nanoseconds since 1970."""

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the completion: the context of its sending."""
        return headers_of(set_span_in_context(self.send, Context()))

    @property
    def ids(self) -> dict[str, str]:
        """Ids of the request's trace and span, for a log line."""
        return ids_of(self.process)


class WorkerTraces:
    """Makes a worker's spans. Moments of payloads are seconds of the running loop's clock."""

    def __init__(self, *, requests: str, completions: str, group: str) -> None:
        self._requests = requests
        self._completions = completions
        self._group = group

    def polled(self, deliveries: Sequence[Delivery], began_ns: int) -> None:
        """Record a poll that returned records."""
        records = [record for delivery in deliveries for record in delivery.records]
        if records:
            attributes = messaging("poll", "receive", self._requests, group=self._group, count=len(records))
            contexts = (context_of(record.headers) for record in records[:LINKS_MAX])
            _linked(f"poll {self._requests}", contexts, began_ns, attributes)

    def publishing(self, key: JobKey, payload: Payload) -> Publishing:
        """Return the spans of a request whose completion is made into a record: the same at every repetition."""
        if payload.publishing is not None:
            return payload.publishing
        assert payload.completion is not None
        record, completion, now_ns = payload.received.record, payload.completion, time.time_ns()
        began_ns = now_ns if payload.taken_at is None else min(now_ns, int(payload.taken_at.timestamp() * _NS))
        process = TRACER.start_span(
            f"process {key.topic}",
            context_of(record.headers),
            kind=SpanKind.CONSUMER,
            start_time=began_ns,
            attributes=messaging(
                "process",
                "process",
                key.topic,
                group=self._group,
                partition=str(key.partition),
                offset=key.offset,
                key=completion.request_id,
            )
            | {
                "darkroom.tenant": completion.tenant,
                "darkroom.status": completion.status.value,
                "darkroom.attempts": completion.attempts,
                "darkroom.replayed": completion.replayed,
            },
        )
        if completion.error is not None and completion.status is Ended.FAILED:
            process.set_status(Status(StatusCode.ERROR, completion.error.message))
            process.set_attribute("error.type", completion.error.code.value)
        inside = set_span_in_context(process, Context())
        if process.is_recording() and not completion.replayed:
            _record_work(inside, payload, completion)
        send = TRACER.start_span(
            f"send {self._completions}",
            inside,
            kind=SpanKind.PRODUCER,
            start_time=now_ns,
            attributes=messaging("send", "send", self._completions, key=completion.request_id),
        )
        payload.publishing = Publishing(process, send, now_ns)
        return payload.publishing

    def published(self, payloads: Iterable[Payload]) -> None:
        """End the spans of requests whose completions were committed together, and record the commit."""
        ended = [payload.publishing for payload in payloads if payload.publishing is not None]
        if not ended:
            return
        for spans in ended:
            spans.send.end()
            spans.process.end()
        attributes = messaging("commit", "settle", self._requests, group=self._group, count=len(ended))
        contexts = (set_span_in_context(spans.process, Context()) for spans in ended[:LINKS_MAX])
        _linked(f"commit {self._requests}", contexts, min(spans.began_ns for spans in ended), attributes)


def _record_work(inside: Context, payload: Payload, completion: Completion) -> None:
    """Record the parts of a request's work, each where the payload knows when it was."""
    offset_ns = time.time_ns() - int(asyncio.get_running_loop().time() * _NS)
    prepared, rendered, times = payload.prepared, completion.batch, completion.timings_ms
    if prepared is not None and payload.prepared_at is not None:
        ended_ns = offset_ns + int(payload.prepared_at * _NS)
        child("prepare", inside, ended_ns - int(prepared.prepare_ms * 1e6), ended_ns)
    if payload.joined_at is not None and times.denoise is not None and rendered is not None:
        began_ns = offset_ns + int(payload.joined_at * _NS)
        device_ns = began_ns + int(times.denoise * 1e6)
        seconds = payload.device_seconds
        company = {"darkroom.batch.rows_min": rendered.rows_min, "darkroom.batch.rows_max": rendered.rows_max}
        child("device", inside, began_ns, device_ns, company | {"darkroom.device_seconds": seconds})
        if times.decode is not None:
            child("finish", inside, device_ns, device_ns + int(times.decode * 1e6))
    if payload.stored_ns is not None:
        child("store", inside, *payload.stored_ns, {"darkroom.images": len(completion.images)})


def _linked(name: str, contexts: Iterable[Context], began_ns: int, attributes: dict[str, str | int]) -> None:
    found = (get_current_span(context).get_span_context() for context in contexts)
    links = [Link(one) for one in found if one.is_valid]
    span = TRACER.start_span(
        name, Context(), kind=SpanKind.CLIENT, attributes=attributes, links=links, start_time=began_ns
    )
    span.end()
