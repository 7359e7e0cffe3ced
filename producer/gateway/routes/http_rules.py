"""Rules of HTTP that all routes keep: HEAD beside GET, Allow for a whole path, JSON that no cache stores."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any, Final, TypeVar

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from darkroom.producer.gateway.problems import Problem
from darkroom.schemas.names import IDENTITY_PATTERN

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""The methods that a route of ours may accept."""
RequestId = Annotated[str, Path(description="The job's id.", json_schema_extra={"pattern": IDENTITY_PATTERN})]
"""Checked by the look-up: an id that does not match the pattern is answered like any other unknown one."""
_WAIT: Final = re.compile(r'wait\s*=\s*"?([0-9]{1,5})"?', re.IGNORECASE)
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)

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


def seconds_preferred(call: Request) -> float | None:
    """Return the seconds of the header `Prefer: wait=N` (RFC 7240, 4.3), None without it."""
    for preference in re.split(r"[,;]", call.headers.get("prefer", "")):
        if found := _WAIT.fullmatch(preference.strip()):
            return float(found[1])
    return None


def ranged(call: Request, content: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """Return a response with the part of the content that Range asks for, or with all of it (RFC 9110, 14).

    One range of bytes is served. Several, other units, and what is no range are ignored, as the RFC allows. `headers`
    has the ETag, by which If-Range is decided. Raises `Problem` 416 for a range beyond the end.
    """
    headers = {**headers, "Accept-Ranges": "bytes"}
    found = _RANGE.fullmatch(call.headers.get("range", ""))
    if_range = call.headers.get("if-range", headers["ETag"])
    if call.method != "GET" or found is None or not (found[1] or found[2]) or if_range != headers["ETag"]:
        return Response(content, media_type=media_type, headers=headers)
    size = len(content)
    if not found[1]:  # the last bytes
        first, last = max(0, size - int(found[2])), size - 1
    else:
        first, last = int(found[1]), min(size - 1, int(found[2] or size - 1))
        if found[2] and int(found[2]) < first:
            return Response(content, media_type=media_type, headers=headers)
    if first >= size:
        raise Problem(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            "range_beyond_end",
            f"The picture has {size} bytes, and the range begins after them.",
            "Ask for a range that begins within them, or leave Range out.",
            headers={"Content-Range": f"bytes */{size}"},
        )
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Response(content[first : last + 1], HTTPStatus.PARTIAL_CONTENT, headers, media_type)


def answer(body: dict[str, Any], status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """Return a JSON response that no cache stores: it is true only now."""
    content = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
    return Response(content, status, {"Cache-Control": "no-store", **(headers or {})}, "application/json")
