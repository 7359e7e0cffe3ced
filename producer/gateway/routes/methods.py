"""The methods of a path: GET and HEAD are registered together, and 405 names every method that the path takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""What a route of ours may take."""

EndpointT = TypeVar("EndpointT", bound=Callable[..., Awaitable[Any]])


def reads(router: APIRouter, path: str, **described: Any) -> Callable[[EndpointT], EndpointT]:
    """Register an endpoint for GET and for HEAD. `described` is FastAPI's description of the route.

    RFC 9110, 9.3.2: HEAD has GET's status and headers and no content. The endpoint does the same work for both, and the
    server leaves out the content; an endpoint that has none to count, as a stream, looks at the call's method. OpenAPI
    describes GET alone: a generator would make a second, useless operation of HEAD.
    """

    def register(endpoint: EndpointT) -> EndpointT:
        router.add_api_route(path, endpoint, methods=["GET"], **described)
        router.add_api_route(path, endpoint, methods=["HEAD"], **{**described, "include_in_schema": False})
        return endpoint

    return register


def methods_at(call: Request, path: str) -> list[str]:
    """Return the methods that any route takes at a path, in the order of `METHODS`; none where nothing is there.

    Several routes share a path, and the framework's own 405 names the methods of the first alone, where Allow has to
    list all of them (RFC 9110, 15.5.6).
    """
    router = call.app.router
    scope = {"type": "http", "path": path, "root_path": "", "headers": [], "app": call.app}
    return [
        method
        for method in METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in router.routes)
    ]


def without_content(response: Response) -> Response:
    """Return a stream's answer to HEAD: its status and its headers, and nothing of the stream."""
    empty = Response(None, response.status_code)
    empty.raw_headers = list(response.raw_headers)
    return empty
