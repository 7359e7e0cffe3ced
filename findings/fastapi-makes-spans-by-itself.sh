#!/usr/bin/env bash
# Guess:   a FastAPI application has no spans until somebody instruments it, by OpenTelemetry's package for it or by a
#          middleware. So a middleware that makes one server span for each call gives one for each call.
# Instead: FastAPI makes server spans itself as soon as the process has a provider of spans, and needs no option for it;
#          a middleware of one's own makes a second beside it, with the same parent and name. It adds spans for the
#          endpoint and for serializing besides, and puts the query into an attribute, a prompt in it included.
# Matters: calls are counted twice in every view by route, traces get four times the spans that were meant, and what no
#          access log was to hold is sent to a collector. `FastAPI(telemetry={...})` takes each of it away.
# Source:  fastapi 0.165.0, starlette 1.10.0, opentelemetry-sdk 1.45.2, httpx 0.28.1.
# Needs:   python3. Takes half a minute. Reaches nothing once it is installed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet fastapi==0.165.0 starlette==1.10.0 opentelemetry-sdk==1.45.2 httpx==0.28.1
cat > "$folder/look.py" <<'PY'
import asyncio
import importlib.metadata

import httpx
from fastapi import FastAPI
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from starlette.middleware import Middleware

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)


class Own:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        tracer = trace.get_tracer("own")
        with tracer.start_as_current_span("GET /jobs/{job}", propagate.extract(headers), kind=SpanKind.SERVER):
            await self.app(scope, receive, send)


async def call(**options):
    app = FastAPI(**options)

    @app.get("/jobs/{job}")
    async def look(job: str) -> dict[str, str]:
        return {"job": job}

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        await client.get("/jobs/1?prompt=private", headers={"traceparent": PARENT})
    spans = exporter.get_finished_spans()
    exporter.clear()
    return spans


def shown(title, spans):
    print(title)
    for one in spans:
        parent = "-" if one.parent is None else trace.format_span_id(one.parent.span_id)
        print(f"  {one.instrumentation_scope.name}: {one.kind.name} {one.name}, parent {parent}", dict(one.attributes))


print("fastapi", importlib.metadata.version("fastapi"))
plain = asyncio.run(call())
shown("no middleware, no option:", plain)
both = asyncio.run(call(middleware=[Middleware(Own)]))
shown("with a middleware that makes one span:", both)
off = asyncio.run(call(telemetry={"tracing": False}))
shown("with telemetry={'tracing': False}:", off)
servers = [one for one in both if one.kind is SpanKind.SERVER]
assert len([one for one in plain if one.kind is SpanKind.SERVER]) == 1, "FastAPI makes none by itself now"
assert any(one.attributes.get("url.query") == "prompt=private" for one in plain), "the query is left out now"
assert len(plain) > 1, "the server span is all there is now"
assert [one.name for one in servers] == ["GET /jobs/{job}"] * 2, "there is one span now"
assert {trace.format_span_id(one.parent.span_id) for one in servers} == {"00f067aa0ba902b7"}
assert not off
print("as its head says")
PY
"$folder/venv/bin/python" "$folder/look.py"
