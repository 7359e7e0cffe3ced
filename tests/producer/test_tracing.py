"""Proves what is passed on of a trace's context, and that recording spans neither leaks queries nor holds up an end."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import baggage, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from darkroom.producer import tracing
from darkroom.producer.tracing import CONTEXT_BYTES_MAX, context_of, headers_of, inside, recording_provider, sending

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        ([], {}),
        ([("traceparent", TRACEPARENT)], {"traceparent": TRACEPARENT}),
        ([("TraceParent", TRACEPARENT.encode())], {"traceparent": TRACEPARENT}),
        (
            [("traceparent", TRACEPARENT), ("tracestate", "a=1,b=2"), ("baggage", "team=red")],
            {"traceparent": TRACEPARENT, "tracestate": "a=1,b=2", "baggage": "team=red"},
        ),
        ([("traceparent", TRACEPARENT), ("traceparent", "00-another")], {"traceparent": TRACEPARENT}),
        ([("traceparent", "nonsense"), ("baggage", "team=red")], {"baggage": "team=red"}),
        ([("traceparent", b"\xff\x00"), ("tracestate", None)], {}),
        ([("tracestate", "a=1")], {}),
        ([("traceparent", TRACEPARENT), ("baggage", "a=" + "x" * CONTEXT_BYTES_MAX)], {}),
    ],
)
def test_a_valid_context_is_passed_on_as_it_is(
    given: list[tuple[str, bytes | str | None]], passed_on: dict[str, str]
) -> None:
    with inside(context_of(given)), sending("generation.requests", "a") as headers:
        assert dict(headers) == {name: value.encode() for name, value in passed_on.items()}
    assert headers_of() == {}, "the context before is back"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "TRACER", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def test_a_sending_is_a_part_of_the_caller_s_trace(spans: InMemorySpanExporter) -> None:
    with (
        inside(context_of([("traceparent", TRACEPARENT), ("baggage", "team=red")])),
        sending("generation.requests", "picture-1") as headers,
    ):
        assert baggage.get_baggage("team") == "red"
    [span] = spans.get_finished_spans()
    assert span.parent is not None
    assert span.attributes is not None
    assert trace.format_span_id(span.parent.span_id) == "00f067aa0ba902b7"
    assert (span.name, span.attributes["messaging.kafka.message.key"]) == ("send generation.requests", "picture-1")
    own = trace.format_span_id(span.get_span_context().span_id)
    assert dict(headers)["traceparent"] == f"{TRACEPARENT[:36]}{own}-01".encode()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_recorded_unless_it_is_asked_for(environ: dict[str, str]) -> None:
    assert recording_provider("darkroom-worker", environ) is None


def test_a_query_is_no_part_of_a_span() -> None:
    provider = recording_provider("darkroom-gateway", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    assert provider is not None
    span = provider.get_tracer("fastapi").start_span("GET", attributes={"url.query": "prompt=secret"})
    assert dict(getattr(span, "attributes")) == {"url.query": "left out"}  # noqa: B009 - of the SDK's spans alone


def _ended(program: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True, timeout=60
    )


def test_a_collector_that_never_answers_holds_up_no_end() -> None:
    program = (
        "from darkroom.producer.tracing import *\nwith recording('x'):\n    child('one', Context(), 1, 2)\n"
        "print('over')"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert _ended(program, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint).stdout == "over\n"


def test_without_the_extra_that_is_said_and_nothing_is_recorded() -> None:
    program = (
        "import sys; sys.modules['opentelemetry.sdk'] = None\n"
        "from darkroom.producer.tracing import *\nwith recording('x'):\n    print(is_recording())"
    )
    done = _ended(program, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert done.stdout == "False\n"
    assert "install darkroom[trace]" in done.stderr
