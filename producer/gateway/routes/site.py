"""Everything but the API: the web page's files, the API's own page, the probes and the metrics."""

from __future__ import annotations

import mimetypes
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fastapi import APIRouter
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles

from darkroom.producer.gateway.gateway import gateway_of
from darkroom.producer.gateway.jobs.answers import Probe
from darkroom.producer.gateway.routes.http_rules import answer, reads

FOLDER: Final = Path(__file__).parents[1] / "page"

pages = APIRouter(include_in_schema=False)
operation = APIRouter(tags=["operation"])

_files = StaticFiles(directory=FOLDER)
# Browsers refuse scripts of another type, and a machine's own table may have an older one for them.
mimetypes.add_type("text/javascript", ".js")


async def _file(call: Request, name: str) -> Response:
    """Return a file of the page, or 304 to a browser that has it.

    Answered from within a route rather than by mounting: metrics and the header Allow know the routes alone.
    """
    response = await _files.get_response(name, call.scope)
    if isinstance(response, FileResponse):
        # As a whole: of a file that is sent in parts, HEAD would have another length than its compressed GET.
        content = await run_in_threadpool(Path(response.path).read_bytes)
        kept = {header: response.headers[header] for header in ("content-type", "etag", "last-modified")}
        response = Response(content, headers=kept)
    # Browsers ask each time and get the file when it has changed: a new version is seen at once.
    response.headers["Cache-Control"] = "no-cache"
    return response


@reads(pages, "/")
async def index(call: Request) -> Response:
    """Return the web page."""
    return await _file(call, "index.html")


@reads(pages, "/docs")
async def docs(call: Request) -> Response:
    """Return the API's own page."""
    return await _file(call, "docs.html")


@reads(pages, "/page/{name}")
async def file(call: Request, name: str) -> Response:
    """Return one of the page's files."""
    return await _file(call, name)


@reads(operation, "/livez", response_model=Probe, summary="Whether the process is alive")
async def livez() -> Response:
    """Return 200: a process that answers is alive."""
    return answer({"well": True, "reasons": []})


@reads(
    operation,
    "/readyz",
    response_model=Probe,
    responses={503: {"model": Probe, "description": "Not at the moment."}},
    summary="Whether calls should be sent here",
)
async def readyz(call: Request) -> Response:
    """Return 200 if Kafka and the store answered lately and the process is not shutting down, 503 otherwise."""
    reasons = gateway_of(call).unready()
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    return answer({"well": not reasons, "reasons": reasons}, status)


@reads(operation, "/metrics", include_in_schema=False)
async def metrics(call: Request) -> Response:
    """Return the metrics in Prometheus's text format."""
    content = await run_in_threadpool(generate_latest, gateway_of(call).metrics.registry)
    return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})
