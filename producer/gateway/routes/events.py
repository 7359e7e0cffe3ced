"""`/v1/generations/{id}/events`: server-sent events (WHATWG HTML, section 9.2) of one job.

    status       the job's state, as its own route answers: first of all, and whenever the state changes
    progress     {steps_done, steps_total, preview}
    completion   the job's state with its completion; the stream ends after it

The completion has the id `end`. A browser's EventSource opens a stream that has ended again, with that id in
Last-Event-ID; it is answered 204, at which it stops (WHATWG HTML, section 9.2.3).

Every stream begins with the state, so a client whose stream was cut simply opens another. Nothing is queued for a slow
reader: the generator is resumed when the reader has taken the last event, and then yields the latest state. States in
between are skipped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter
from sse_starlette.event import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.gateway import Gateway, gateway_of
from darkroom.producer.gateway.jobs.answers import ProgressSeen, progress_seen
from darkroom.producer.gateway.jobs.jobs import Job
from darkroom.producer.gateway.openapi import PROBLEMS
from darkroom.producer.gateway.principal import Scope as May
from darkroom.producer.gateway.routes.http_rules import RequestId, reads
from darkroom.producer.gateway.routes.streams import check_room, event, event_stream, reconnection

router = APIRouter(tags=["jobs"])

END: Final = "end"
"""The id of the event after which no other comes."""
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
    204: {"description": "The reader has had the completion, as Last-Event-ID says."},
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
    if call.headers.get("last-event-id") == END:
        return Response(status_code=HTTPStatus.NO_CONTENT)
    check_room(gateway)
    return event_stream(gateway, _events(gateway, await gateway.jobs.found(principal.tenant, request_id)))


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
            yield reconnection()
            while not gateway.is_closing:
                if job.status != told_status:
                    told_status, body = job.status, await jobs.body(job)
                    yield event("status", body)
                    if job.completion is not None:
                        yield event("completion", body, id=END)
                        return
                progress = progress_seen(job.progress)
                if progress is not None and progress != told_progress:
                    told_progress = progress
                    yield event("progress", progress.model_dump())
                changed = await watch.changed(check_s)
                job = jobs.with_news(job, watch) if changed else await jobs.look_again(job)
    finally:
        gateway.streams_open -= 1
