"""Traces by OpenTelemetry: the context of a request from HTTP over Kafka to its completion, and this process's spans.

The API is always there and costs next to nothing: without an SDK a span is its parent's context, so that contexts are
passed on all the same. Spans are recorded where the standard variables name a place for them
(`OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) and the extra `trace` is installed. All other
variables of OpenTelemetry's SDK count as well: sampler, resource, headers, propagators.

Names and attributes of messaging spans: OpenTelemetry's semantic conventions 1.38, "Messaging spans" and "Kafka".
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from opentelemetry.util.types import Attributes
from typing_extensions import override

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = logging.getLogger(__name__)

TRACER: Final = trace.get_tracer("darkroom", version("darkroom"))
"""A proxy: it records from the moment on that the process has a provider."""
HEADERS: Final = ("traceparent", "tracestate", "baggage")
"""W3C Trace Context's two headers and W3C Baggage's."""
CONTEXT_BYTES_MAX: Final = 16 * 1024
"""Of one context's headers together: as many as a completion echoes. What is larger is not passed on."""
LINKS_MAX: Final = 128
"""Links of a span, as the SDK's own limit: the requests of a batch beyond it are counted, not linked."""
FLUSH_S_MAX: Final = 3.0
"""For spans that wait when the process ends: a collector that is away must not hold up a drain."""
_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def context_of(headers: Iterable[tuple[str, bytes | str | None]]) -> Context:
    """Return the context that a record's or a call's headers carry: the first of each name, compared without case.

    An empty one where there is none, or none that is valid. Never raises.
    """
    carrier: dict[str, str] = {}
    size_bytes = 0
    for name, value in headers:
        lower = name.lower()
        if lower not in HEADERS or value is None or lower in carrier:
            continue
        text = value if isinstance(value, str) else value.decode("latin-1")
        size_bytes += len(text)
        if size_bytes > CONTEXT_BYTES_MAX:
            return Context()
        carrier[lower] = text
    return propagate.extract(carrier, Context()) if carrier else Context()


def headers_of(context: Context | None = None) -> dict[str, str]:
    """Return the headers that carry a context, the current one by default: none where it has no trace."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier, context)
    return carrier


def ids_of(span: Span) -> dict[str, str]:
    """Return `trace_id` and `span_id` for a log line, in hexadecimal; none where the span belongs to no trace."""
    found = span.get_span_context()
    if not found.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(found.trace_id), "span_id": trace.format_span_id(found.span_id)}


def messaging(operation: str, kind: str, topic: str, **more: str | int | None) -> dict[str, str | int]:
    """Return the attributes of a messaging span: `operation` is Kafka's word, `kind` the conventions' type.

    `more` are attributes by their last part, under `messaging.` and with underscores for points: `kafka_offset`. Those
    that are None are left out.
    """
    known: dict[str, str | int] = {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": kind,
        "messaging.destination.name": topic,
    }
    return known | {f"messaging.{_NAMES.get(name, name)}": value for name, value in more.items() if value is not None}


_NAMES: Final = {
    "partition": "destination.partition.id",
    "offset": "kafka.offset",
    "key": "kafka.message.key",
    "group": "consumer.group.name",
    "count": "batch.message_count",
    "client_id": "client.id",
}


@contextlib.contextmanager
def inside(context: Context) -> Iterator[None]:
    """Make a context the current one, its baggage included: a span that is started with it has its trace alone."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


@contextlib.contextmanager
def sending(topic: str, key: str) -> Iterator[list[tuple[str, bytes]]]:
    """Record the sending of one record while inside. Yield the headers that carry the span, or the current context."""
    attributes = messaging("send", "send", topic, key=key)
    with TRACER.start_as_current_span(f"send {topic}", kind=SpanKind.PRODUCER, attributes=attributes):
        yield [(name, value.encode()) for name, value in headers_of().items()]


def continuing(headers: Iterable[tuple[bytes, bytes]]) -> contextlib.AbstractContextManager[None]:
    """Make the context that a call's headers carry the current one, unless the web framework's own span is that."""
    if trace.get_current_span().get_span_context().is_valid:
        return contextlib.nullcontext()
    return inside(context_of((name.decode("latin-1"), value) for name, value in headers))


def child(name: str, parent: Context, began_ns: int, ended_ns: int, attributes: Attributes = None) -> None:
    """Record a span that is over. Moments are nanoseconds since 1970."""
    span = TRACER.start_span(name, parent, attributes=attributes, start_time=began_ns)
    span.end(max(began_ns, ended_ns))


def recording_provider(service: str, environ: Mapping[str, str] = os.environ) -> TracerProvider | None:
    """Return what records and sends spans as the standard variables say; None where they name no collector.

    `service` is the name where OTEL_SERVICE_NAME says none. Raises `ImportError` without the extra `trace`.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    if not any(environ.get(name) for name in _ENDPOINTS):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Span as MutableSpan
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    class QueriesLeftOut(SpanProcessor):
        """Overwrites the queries that FastAPI's spans have, for the reason that no log line has them: prompts."""

        @override
        def on_start(self, span: MutableSpan, parent_context: Context | None = None) -> None:
            if "url.query" in (span.attributes or {}):
                span.set_attribute("url.query", "left out")

    named = Resource.create({"service.name": environ.get("OTEL_SERVICE_NAME", service), "service.version": _VERSION})
    provider = TracerProvider(resource=named, shutdown_on_exit=False)
    provider.add_span_processor(QueriesLeftOut())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


@contextlib.contextmanager
def recording(service: str) -> Iterator[None]:
    """Record this process's spans while inside, where the standard variables ask for it. Once in a process.

    Leaving takes at most `FLUSH_S_MAX` seconds: spans that a collector does not take by then are lost.
    """
    try:
        provider = recording_provider(service)
    except ImportError as error:
        log.warning("No spans are recorded (%s): install darkroom[trace], or take back %s.", error, _ENDPOINTS[0])
        provider = None
    if provider is None:
        yield
        return
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        # The SDK's own limit is not kept: a flush of 3 s at a silent collector takes as long as its exporter's 10 s.
        flushing = threading.Thread(target=provider.force_flush, name="flush spans", daemon=True)
        flushing.start()
        flushing.join(FLUSH_S_MAX)


_VERSION: Final = version("darkroom")


def is_recording() -> bool:
    """Return whether spans of this process are recorded at all."""
    return TRACER.start_span("is there a recorder", Context()) is not INVALID_SPAN
