"""`/v1/generations/{id}/events`: server-sent events (WHATWG HTML, section 9.2) of one job.

    status       the job's state, as its own route answers: first of all, and whenever the state changes
    progress     {steps_done, steps_total, preview}
    completion   the job's state with its completion; the stream ends after it

Every stream begins with the state, so a client whose stream was cut simply opens another. Nothing is queued for a slow
reader: the generator is resumed when the reader has taken the last event, and then yields the latest state. States in
between are skipped.

sse-starlette frames the events, sends comments on a silent stream, notices a reader that hangs up, gives up on one that
takes nothing within `gateway.events_write_s`, and answers HEAD. It looks for the server's shutdown in uvicorn's signal
handlers, which `gateway.server` replaces; `Gateway.close` ends the streams instead.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter
from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from darkroom.producer.gateway.gateway import Gateway, gateway_of
from darkroom.producer.gateway.jobs.answers import ProgressSeen, progress_seen
from darkroom.producer.gateway.jobs.jobs import Job
from darkroom.producer.gateway.openapi import PROBLEMS
from darkroom.producer.gateway.principal import Scope as May
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.routes.http_rules import RequestId, reads

router = APIRouter(tags=["jobs"])

RETRY_MS: Final = 2000
"""How long a browser waits before it reopens a stream that was cut."""
_LINE_END: Final = "\n"
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


@reads(
    router,
    "/v1/generations/{request_id}/events",
    response_class=Response,
    responses={**_STREAM, **PROBLEMS},
    summary="A job's events",
)
async def events(call: Request, request_id: RequestId) -> Response:
    """Follow a job until it ends."""
    gateway = gateway_of(call)
    principal = await gateway.admit(call, May.READ)
    settings = gateway.settings.gateway
    if gateway.is_closing or gateway.streams_open >= settings.events_open_max:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too_many_streams",
            f"All {settings.events_open_max} event streams of this gateway are in use.",
            "Try again a little later, or poll the job's state.",
            headers={"Retry-After": str(settings.retry_after_s)},
        )
    return _EventStream(
        _events(gateway, await gateway.jobs.found(principal.tenant, request_id)),
        sep=_LINE_END,
        ping=settings.events_comment_s,
        ping_message_factory=lambda: ServerSentEvent(comment="waiting", sep=_LINE_END),
        send_timeout=settings.events_write_s,
    )


class _EventStream(EventSourceResponse):
    """A stream that ends without an error when its reader takes nothing for too long."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)


async def _events(gateway: Gateway, job: Job) -> AsyncIterator[ServerSentEvent]:
    """Yield what is new of a job until the job or the process ends."""
    jobs, check_s = gateway.jobs, gateway.settings.gateway.waiting_check_s
    told_status: str | None = None
    told_progress: ProgressSeen | None = None
    gateway.streams_open += 1
    try:
        with gateway.services.hub.watching(job.identity) as watch:
            # The job may have changed between the first look and the beginning of the watch.
            job = await jobs.look_again(job)
            yield ServerSentEvent(retry=RETRY_MS, sep=_LINE_END)
            while not gateway.is_closing:
                if job.status != told_status:
                    told_status, body = job.status, await jobs.body(job)
                    yield _event("status", body)
                    if job.completion is not None:
                        yield _event("completion", body)
                        return
                progress = progress_seen(job.progress)
                if progress is not None and progress != told_progress:
                    told_progress = progress
                    yield _event("progress", progress.model_dump())
                changed = await watch.changed(check_s)
                job = jobs.with_news(job, watch) if changed else await jobs.look_again(job)
    finally:
        gateway.streams_open -= 1


def _event(name: str, data: dict[str, Any]) -> ServerSentEvent:
    # ASCII alone: a lone surrogate, which JSON may escape, has no UTF-8, and the library's JSON event would raise.
    return ServerSentEvent(json.dumps(data, separators=(",", ":")), event=name, sep=_LINE_END)
