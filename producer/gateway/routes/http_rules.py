"""Rules of HTTP that all routes keep: HEAD beside GET, Allow for a whole path, JSON that no cache stores."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from darkroom.schemas.names import IDENTITY_PATTERN

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""The methods that a route of ours may accept."""
RequestId = Annotated[str, Path(description="The job's id.", json_schema_extra={"pattern": IDENTITY_PATTERN})]
"""Checked by the look-up: an id that does not match the pattern is answered like any other unknown one."""

EndpointT = TypeVar("EndpointT", bound=Callable[..., Awaitable[Any]])


def reads(router: APIRouter, path: str, **described: Any) -> Callable[[EndpointT], EndpointT]:
    """Register an endpoint for GET and HEAD. `described` is FastAPI's description of the route.

    HEAD has GET's status and headers and no content (RFC 9110, 9.3.2): the endpoint does the same work for both, and
    the server leaves out the content. OpenAPI describes GET alone: of HEAD, generators would make a useless operation.
    """

    def register(endpoint: EndpointT) -> EndpointT:
        router.add_api_route(path, endpoint, methods=["GET"], **described)
        router.add_api_route(path, endpoint, methods=["HEAD"], **{**described, "include_in_schema": False})
        return endpoint

    return register


def methods_at(call: Request, path: str) -> list[str]:
    """Return the methods that any route accepts at a path, in the order of `METHODS`; none for an unknown path.

    Several routes share a path. The framework's own 405 lists the methods of the first one alone, but Allow has to list
    all of them (RFC 9110, 15.5.6).
    """
    router = call.app.router
    scope = {"type": "http", "path": path, "root_path": "", "headers": [], "app": call.app}
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in router.routes)
    ]


def answer(body: dict[str, Any], status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response that no cache stores: it is true only now."""
    content = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(content, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")
