"""What may come in: bodies within a size and a time, and headers within a number, before anything of them is kept.

Bodies are counted as they come, so a wrong or a missing Content-Length does not matter. What the application answers
to a body that was refused while it read is replaced: whatever it makes of the interruption, the caller hears why.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.producer.gateway.access.sending import send_problem
from darkroom.producer.gateway.problems import Problem
from darkroom.schemas.settings.access import AccessSettings


class _Interrupted(HTTPException):
    """Ends the reading of a body. FastAPI turns every other exception there into a 400 of its own."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status.value, problem.detail)


class InputLimits:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: AccessSettings) -> None:
        self._app = app
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if problem := self._judged(scope):
            await send_problem(problem, send)
            return
        body = _Body(self._settings, receive, send)
        try:
            await self._app(scope, body.receive, body.send)
        except Exception:  # whatever the application made of the interruption
            if body.problem is None or body.started:
                raise
        if body.problem is not None and not body.started:
            await send_problem(body.problem, send)

    def _judged(self, scope: Scope) -> Problem | None:
        """What is wrong with the headers."""
        headers = scope["headers"]
        size_bytes = sum(len(name) + len(value) + 4 for name, value in headers)
        if len(headers) > self._settings.headers_max or size_bytes > self._settings.header_bytes_max:
            return _headers_too_large(self._settings)
        lengths = [value for name, value in headers if name == b"content-length"]
        if lengths and lengths[0].isdigit() and int(lengths[0][:20]) > self._settings.body_bytes_max:
            return _body_too_large(self._settings)
        return None


class _Body:
    """One call's body, and its answer."""

    def __init__(self, settings: AccessSettings, receive: Receive, send: Send) -> None:
        self._settings = settings
        self._receive = receive
        self._send = send
        self._size_bytes = 0
        self._ends_at: float | None = None
        self._is_complete = False
        self.problem: Problem | None = None
        self.started = False

    async def receive(self) -> Message:
        """The next of the body, or, behind it, the caller's leaving, which may take as long as it will."""
        if self.problem is not None:
            raise _Interrupted(self.problem)
        if self._is_complete:
            return await self._receive()
        if self._ends_at is None:
            self._ends_at = asyncio.get_running_loop().time() + self._settings.body_read_timeout_s
        try:
            async with asyncio.timeout_at(self._ends_at):
                message = await self._receive()
        except TimeoutError:
            self.problem = _body_too_slow(self._settings)
            raise _Interrupted(self.problem) from None
        if message["type"] == "http.request":
            self._size_bytes += len(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._size_bytes > self._settings.body_bytes_max:
                self.problem = _body_too_large(self._settings)
                raise _Interrupted(self.problem)
        return message

    async def send(self, message: Message) -> None:
        """Nothing more of an answer to a body that was refused before the answer began."""
        if self.problem is not None and not self.started:
            return
        self.started = True
        await self._send(message)


_CLOSE = {"Connection": "close"}
"""What is left of the body is not read: the connection is good for nothing more."""


def _body_too_large(settings: AccessSettings) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body_too_large",
        f"The body has more than {settings.body_bytes_max} bytes (DARKROOM_ACCESS__BODY_BYTES_MAX).",
        "Send a smaller picture, or put it in a bucket and name it by bucket and key.",
        headers=_CLOSE,
    )


def _body_too_slow(settings: AccessSettings) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_TIMEOUT,
        "body_too_slow",
        f"The body did not come within {settings.body_read_timeout_s:g} s.",
        "Send it again, over a faster connection or smaller.",
        headers=_CLOSE,
    )


def _headers_too_large(settings: AccessSettings) -> Problem:
    return Problem(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers_too_large",
        f"There are more than {settings.headers_max} headers, or more than {settings.header_bytes_max} bytes of them.",
        "Send fewer and shorter headers.",
        headers=_CLOSE,
    )
