"""ASGI middleware around the application: the access log, the security headers, and limits on what comes in."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import structlog
from opentelemetry.trace import get_current_span
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.producer.gateway.access.gatekeeper import PRINCIPAL_STATE
from darkroom.producer.gateway.openai.errors import response_to
from darkroom.producer.gateway.principal import Principal
from darkroom.producer.gateway.problems import Problem, body_too_large
from darkroom.producer.tracing import continuing, ids_of
from darkroom.schemas.errors import bounded
from darkroom.schemas.settings.access import AccessSettings

log = structlog.get_logger(__name__)

# --- The access log -------------------------------------------------------------------------------------

CALL_ID_HEADER: Final = "X-Request-ID"
_CALL_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PATH_CHARACTERS_MAX: Final = 300
_QUIET: Final = frozenset({"/livez", "/readyz", "/metrics"})
"""Paths that machines poll every few seconds: only their failures are logged."""


class AccessLog:
    """Logs one line per call, with an id that the response carries, too, within the trace that the caller names. Goes
    outside all other middleware.

    No caller can make its text begin a line. Queries are not logged: they may hold what is private.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(CALL_ID_HEADER, "")
        call_id = given if _CALL_ID.fullmatch(given) else uuid.uuid4().hex
        with continuing(scope["headers"]):
            await self._serve(scope, receive, send, call_id)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, call_id: str) -> None:
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # /generate sets the header to its job's id, which the caller learns nowhere else.
                MutableHeaders(scope=message).setdefault(CALL_ID_HEADER, call_id)
            await send(message)

        try:
            with structlog.contextvars.bound_contextvars(call_id=call_id):
                await self._app(scope, receive, send_with_id)
        finally:
            if status == 0 or status >= HTTPStatus.BAD_REQUEST or scope["path"] not in _QUIET:
                _log_call(scope, call_id, status, time.monotonic() - started)


def _log_call(scope: Scope, call_id: str, status: int, seconds: float) -> None:
    principal = scope.get("state", {}).get(PRINCIPAL_STATE)
    caller = principal if isinstance(principal, Principal) else None
    client = scope.get("client")
    log.info(
        "call",
        call_id=call_id,
        method=bounded(scope["method"], 20),
        path=bounded(scope["path"], _PATH_CHARACTERS_MAX),
        status=status or None,
        ms=round(seconds * 1000, 1),
        client=None if client is None else bounded(str(client[0]), 64),
        tenant=None if caller is None else caller.tenant,
        name=None if caller is None else caller.name,
        **ids_of(get_current_span()),
    )


# --- Security headers -----------------------------------------------------------------------------------

_FIXED: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HSTS: Final = "max-age=31536000"


def content_policy(image_origins: Sequence[str]) -> str:
    """Return the Content-Security-Policy. `image_origins` are those of the pictures' presigned URLs."""
    images = " ".join(("img-src 'self' data: blob:", *image_origins))
    return (
        f"default-src 'self'; {images}; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


class SecurityHeaders:
    """Adds the headers by which browsers load nothing from elsewhere and show the page in no frame.

    A header that a route set itself stays as it is.
    """

    def __init__(self, app: ASGIApp, image_origins: Sequence[str] = ()) -> None:
        self._app = app
        self._headers = {**_FIXED, "Content-Security-Policy": content_policy(image_origins)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                if scope.get("scheme") == "https":
                    headers.setdefault("Strict-Transport-Security", _HSTS)
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


# --- Paths ----------------------------------------------------------------------------------------------

_API: Final = ("/v1/", "/generate/")


class TrailingSlash:
    """Takes a path of the API with a slash at its end for the path without: a redirect would lose a POST's body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http" and scope["path"].startswith(_API) and scope["path"].endswith("/"):
            # In place: those outside read the route from the same scope.
            scope["path"] = scope["path"].removesuffix("/")
        await self._app(scope, receive, send)


# --- Limits on input ------------------------------------------------------------------------------------

_CLOSE: Final = {"Connection": "close"}
"""The rest of a refused body is not read, so the connection cannot be used again."""


class _Interrupted(HTTPException):
    """Ends the reading of a body. FastAPI turns every other exception there into a 400 of its own."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status.value, problem.detail)


class InputLimits:
    """Bounds the number and size of headers, and the size and duration of a body, before any of it is kept.

    Bodies are counted as they arrive, so a wrong or missing Content-Length does not matter. Starlette's own
    `RequestBodyLimitMiddleware` bounds the size alone, not the time that a slow sender takes. If the application has
    not begun its response when a body is refused, the refusal replaces that response.
    """

    def __init__(self, app: ASGIApp, settings: AccessSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if problem := self._refusal_of_headers(scope):
            await response_to(problem, scope["path"])(scope, receive, send)
            return
        body = _Body(self._settings, receive, send)
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:  # the application may turn the interruption into any exception
            if body.problem is None or body.has_response:
                raise
        if body.problem is not None and not body.has_response:
            await response_to(body.problem, scope["path"])(scope, receive, send)

    def _refusal_of_headers(self, scope: Scope) -> Problem | None:
        settings, headers = self._settings, scope["headers"]
        size_bytes = sum(len(name) + len(value) + 4 for name, value in headers)
        if len(headers) > settings.headers_max or size_bytes > settings.header_bytes_max:
            return Problem(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                f"The call has more than {settings.headers_max} headers or {settings.header_bytes_max} bytes of them.",
                "Send fewer and shorter headers.",
                headers=_CLOSE,
            )
        lengths = [value for name, value in headers if name == b"content-length"]
        if lengths and lengths[0].isdigit() and int(lengths[0][:20]) > settings.body_bytes_max:
            return _whole_body_too_large(settings)
        return None


class _Body:
    """The body of one call, and the response to it."""

    def __init__(self, settings: AccessSettings, receive: Receive, send: Send) -> None:
        self._settings = settings
        self._receive = receive
        self._send = send
        self._size_bytes = 0
        self._deadline: float | None = None
        self._is_complete = False
        self.problem: Problem | None = None
        self.has_response = False

    async def receive(self) -> Message:
        """Return the next part of the body; after its end wait, without a limit, for the caller to disconnect."""
        if self.problem is not None:
            raise _Interrupted(self.problem)
        if self._is_complete:
            return await self._receive()
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._settings.body_read_timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.problem = Problem(
                HTTPStatus.REQUEST_TIMEOUT,
                "body_too_slow",
                f"The body did not arrive within {self._settings.body_read_timeout_s:g} s.",
                "Send it again over a faster connection, or send less.",
                headers=_CLOSE,
            )
            raise _Interrupted(self.problem) from None
        if message["type"] == "http.request":
            self._size_bytes += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._size_bytes > self._settings.body_bytes_max:
                self.problem = _whole_body_too_large(self._settings)
                raise _Interrupted(self.problem)
        return message

    async def send(self, message: Message) -> None:
        """Send the response, unless the body was refused before the response began."""
        if self.problem is not None and not self.has_response:
            return
        self.has_response = True
        await self._send(message)


def _whole_body_too_large(settings: AccessSettings) -> Problem:
    return body_too_large(
        "The body",
        settings.body_bytes_max,
        "Send a smaller picture, or put it in a bucket and name it by bucket and key. The limit is "
        "DARKROOM_ACCESS__BODY_BYTES_MAX.",
        headers=_CLOSE,
    )
