"""`/v1/generations/{id}/events`: server-sent events (WHATWG HTML, section 9.2) of one job.

    status       the body of the job's state; first of all, and when the state changes
    progress     {steps_done, steps_total, preview}
    completion   the body of the job's state with its completion; then the stream ends

A stream begins with the state, so one that was cut is simply opened again. Nothing is queued for a reader: when it has
taken what it was sent, it is sent the latest, and what came between is passed over.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from darkroom.producer.gateway.gateway import Gateway, gateway_of
from darkroom.producer.gateway.jobs.answers import ProgressSeen, progress_seen
from darkroom.producer.gateway.jobs.hub import Watch
from darkroom.producer.gateway.jobs.jobs import Job
from darkroom.producer.gateway.principal import Scope as May
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.routes.generations import PROBLEMS, RequestId
from darkroom.producer.gateway.routes.methods import reads, without_content

router = APIRouter(tags=["jobs"])

RETRY_MS: Final = 2000
"""How long a browser waits before it opens a stream again that was cut."""
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
            f"{settings.events_open_max} event streams are open, and no more are.",
            "Try again a little later, or poll the job's state.",
            headers={"Retry-After": str(settings.retry_after_s)},
        )
    stream = EventStream(gateway, await gateway.jobs.found(principal.tenant, request_id))
    return without_content(stream) if call.method == "HEAD" else stream


class EventStream(Response):
    """The stream of one job, as an ASGI application."""

    media_type = "text/event-stream"

    def __init__(self, gateway: Gateway, job: Job) -> None:
        super().__init__(None, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._gateway = gateway
        self._job = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's own
        """Send until the job, the reader or the process ends."""
        self._gateway.streams_open += 1
        with self._gateway.services.hub.watching(self._job.identity) as watch:
            gone = asyncio.ensure_future(_hang_up(receive))
            gone.add_done_callback(lambda ended: _look_up(watch, ended))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                # What was found before the watch began may be old already.
                self._job = await self._gateway.jobs.look_again(self._job)
                await self._follow(watch, gone, send)
            except TimeoutError:
                pass  # a reader that takes nothing is left
            finally:
                gone.cancel()
                self._gateway.streams_open -= 1

    async def _follow(self, watch: Watch, gone: asyncio.Future[None], send: Send) -> None:
        settings = self._gateway.settings.gateway
        jobs = self._gateway.jobs
        job = self._job
        told = _Told()
        await self._write(send, f"retry: {RETRY_MS}\n\n" + await told.of(self._gateway, job))
        checked_at = time.monotonic()
        while job.completion is None:
            news = await watch.changed(settings.events_comment_s)
            if gone.done() or self._gateway.is_closing:
                break
            if news:
                job = jobs.with_news(job, watch)
            elif time.monotonic() - checked_at >= settings.waiting_check_s:
                checked_at = time.monotonic()
                job = await jobs.look_again(job)
            await self._write(send, await told.of(self._gateway, job) or ": waiting\n\n")
        async with asyncio.timeout(settings.events_write_s):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, text: str) -> None:
        """Waits while the reader's buffer is full: what comes meanwhile is the watch's latest."""
        async with asyncio.timeout(self._gateway.settings.gateway.events_write_s):
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


class _Told:
    """What a reader was told, so that it is told what is new."""

    def __init__(self) -> None:
        self._status: str | None = None
        self._progress: ProgressSeen | None = None

    async def of(self, gateway: Gateway, job: Job) -> str:
        """The events that are new, as text; nothing where there are none."""
        text = ""
        if job.status != self._status:
            self._status = job.status
            body = await gateway.jobs.body(job)
            text += _event("status", body)
            if job.completion is not None:
                return text + _event("completion", body)
        progress = progress_seen(job.progress)
        if progress is not None and progress != self._progress:
            self._progress = progress
            text += _event("progress", progress.model_dump())
        return text


def _event(name: str, data: Mapping[str, Any]) -> str:
    """JSON has no line breaks outside of its strings, and escapes those within."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


def _look_up(watch: Watch, ended: asyncio.Future[None]) -> None:
    """Have the stream look whether its reader has gone. A server that cannot tell any more has lost it."""
    if not ended.cancelled():
        ended.exception()
    watch.wake()


async def _hang_up(receive: Receive) -> None:
    """Ends when the reader has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
