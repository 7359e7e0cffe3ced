"""Server-sent events (WHATWG HTML, section 9.2) as this gateway sends them.

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

from sse_starlette.event import ServerSentEvent
from sse_starlette.sse import EventSourceResponse, SendTimeoutError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typing_extensions import override

from darkroom.producer.gateway.gateway import Gateway
from darkroom.producer.gateway.problems import Problem

RETRY_MS: Final = 2000
"""How long a browser waits before it reopens a stream that was cut."""
_LINE_END: Final = "\n"


def check_room(gateway: Gateway) -> None:
    """Raise `Problem` 503 where no further stream may be opened."""
    settings = gateway.settings.gateway
    if gateway.is_closing or gateway.streams_open >= settings.events_open_max:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "too_many_streams",
            f"All {settings.events_open_max} event streams of this gateway are in use.",
            "Try again a little later, or poll the job's state.",
            headers={"Retry-After": str(settings.retry_after_s)},
        )


def event_stream(gateway: Gateway, events: AsyncIterator[ServerSentEvent]) -> Response:
    """Return the response that sends these events until they end or the reader hangs up."""
    settings = gateway.settings.gateway
    return _EventStream(
        events,
        sep=_LINE_END,
        ping=settings.events_comment_s,
        ping_message_factory=lambda: ServerSentEvent(comment="waiting", sep=_LINE_END),
        send_timeout=settings.events_write_s,
    )


def event(name: str, data: dict[str, Any], *, id: str | None = None) -> ServerSentEvent:
    """Return an event. ASCII alone: a lone surrogate, which JSON may escape, has no UTF-8."""
    return ServerSentEvent(json.dumps(data, separators=(",", ":")), event=name, id=id, sep=_LINE_END)


def reconnection() -> ServerSentEvent:
    """Return what tells a browser when to reopen a stream that was cut."""
    return ServerSentEvent(retry=RETRY_MS, sep=_LINE_END)


class _EventStream(EventSourceResponse):
    """A stream that ends without an error when its reader takes nothing for too long."""

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(SendTimeoutError):
            await super().__call__(scope, receive, send)
