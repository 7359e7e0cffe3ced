"""A collector on loopback: takes OTLP over HTTP as protobuf, by OpenTelemetry's own messages, and keeps every span."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData


@dataclass(frozen=True, slots=True)
class Seen:
    """One span."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Any]
    links: tuple[str, ...]
    """Ids of the spans that it links to."""
    failed: bool


class Collector:
    """Listens while entered."""

    def __init__(self) -> None:
        self._taken = TracesData()
        self._lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Stay silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def environment(self) -> dict[str, str]:
        """Variables of a process whose spans come here, soon after they end."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._server.server_address[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self._lock:
            self._taken.resource_spans.extend(request.resource_spans)

    @property
    def spans(self) -> list[Seen]:
        with self._lock:
            return [
                Seen(
                    service=_values(group.resource.attributes)["service.name"],
                    name=span.name,
                    kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    began_ns=span.start_time_unix_nano,
                    ended_ns=span.end_time_unix_nano,
                    attributes=_values(span.attributes),
                    links=tuple(link.span_id.hex() for link in span.links),
                    failed=span.status.code == 2,
                )
                for group in self._taken.resource_spans
                for scope in group.scope_spans
                for span in scope.spans
            ]

    def write(self, path: Path) -> None:
        """Write all that was taken as OTLP JSON: ids in hexadecimal, as its specification has it, not in base64."""
        import json

        with self._lock:
            document = MessageToDict(self._taken, use_integers_for_enums=True)
        for group in document.get("resourceSpans", ()):
            for scope in group.get("scopeSpans", ()):
                for span in scope.get("spans", ()):
                    for holder in (span, *span.get("links", ())):
                        for name in ("traceId", "spanId", "parentSpanId"):
                            if name in holder:
                                holder[name] = _hexadecimal(holder[name])
        path.write_text(json.dumps(document, indent=1) + "\n")


def _hexadecimal(text: str) -> str:
    import base64

    return base64.b64decode(text).hex()


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}
