"""Errors in the shape that OpenAI's clients read: `{"error": {"message", "type", "param", "code"}}`.

The official clients repeat a call after 408, 409, 429 and every 5xx, without an Idempotency-Key (openai-python 3.57
makes one and sends it nowhere). A repetition is a new job, so each answer says in `x-should-retry`, which they obey,
whether one helps.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from darkroom.producer.gateway.problems import Problem
from darkroom.schemas.errors import ErrorCode

PATHS: Final = ("/v1/images", "/v1/models")
"""Where calls are answered in this shape."""
_STATUSES: Final = {HTTPStatus.UNPROCESSABLE_ENTITY: HTTPStatus.BAD_REQUEST}
"""OpenAI's own answer to a request that is not valid is 400."""
_CODES: Final = dict.fromkeys((ErrorCode.PROMPT_REJECTED.value, ErrorCode.IMAGE_REJECTED.value), "moderation_blocked")
"""Codes for which clients of OpenAI's look."""
_WORTH_REPEATING: Final = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


def response_to(problem: Problem, path: str) -> Response:
    """Return a problem as the response of a path: in this shape below `PATHS`, as problem details elsewhere."""
    if not path.startswith(PATHS):
        return problem.response()
    status = _STATUSES.get(problem.status, problem.status)
    headers = {
        "Cache-Control": "no-store",
        **problem.headers,
        "x-should-retry": "true" if status in _WORTH_REPEATING else "false",
    }
    return Response(json.dumps(body_of(problem)), status, headers, "application/json")


def body_of(problem: Problem) -> dict[str, Any]:
    """Return a problem's JSON, with the members of the problem's details that OpenAI's have no place for."""
    details = problem.body()
    own = {name: value for name, value in details.items() if name not in ("type", "title", "status", "detail", "param")}
    return {
        "error": {
            **own,
            "message": f"{problem.detail.rstrip('.')}. {problem.remedy}",
            "type": _type_of(problem.status),
            "param": details.get("param"),
            "code": _CODES.get(problem.code, problem.code),
        }
    }


def _type_of(status: HTTPStatus) -> str:
    if status is HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    return "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
