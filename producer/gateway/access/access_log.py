"""A log line for each call, with an id that the answer carries too. Nothing that a caller wrote can begin a line."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.producer.gateway.access.gatekeeper import PRINCIPAL_STATE
from darkroom.producer.gateway.principal import Principal
from darkroom.schemas.errors import bounded

log = structlog.get_logger(__name__)

CALL_ID_HEADER = "X-Request-ID"
_CALL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_PATH_CHARACTERS_MAX = 300
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by machines: logged only where they fail."""


class AccessLog:
    """ASGI middleware, outside all others. Queries are not logged: they may hold what is nobody's business."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(CALL_ID_HEADER, "")
        call_id = given if _CALL_ID.fullmatch(given) else uuid.uuid4().hex
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # /generate names its job there: whoever asks for a picture has no other word of it.
                MutableHeaders(scope=message).setdefault(CALL_ID_HEADER, call_id)
            await send(message)

        try:
            with structlog.contextvars.bound_contextvars(call_id=call_id):
                await self._app(scope, receive, send_with_id)
        finally:
            if status == 0 or status >= 400 or scope["path"] not in _QUIET:
                self._write(scope, call_id, status, time.monotonic() - started)

    def _write(self, scope: Scope, call_id: str, status: int, seconds: float) -> None:
        principal = scope.get("state", {}).get(PRINCIPAL_STATE)
        who = principal if isinstance(principal, Principal) else None
        client = scope.get("client")
        log.info(
            "call",
            call_id=call_id,
            method=bounded(scope["method"], 20),
            path=bounded(scope["path"], _PATH_CHARACTERS_MAX),
            status=status or None,
            ms=round(seconds * 1000, 1),
            client=None if client is None else bounded(str(client[0]), 64),
            tenant=None if who is None else who.tenant,
            name=None if who is None else who.name,
        )
