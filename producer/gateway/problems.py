"""The gateway's errors: RFC 9457 problem details, one shape for every refusal.

`detail` says in one sentence what happened, and `remedy` what the caller can do about it. Neither reveals anything of
the server's internals.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from darkroom.schemas.errors import ErrorCode, describe

PROBLEM_CONTENT_TYPE: Final = "application/problem+json"


class Problem(Exception):  # noqa: N818 - RFC 9457's word
    """An answer other than success. `code` is for programs and never changes its meaning."""

    def __init__(
        self,
        status: HTTPStatus,
        code: str,
        detail: str,
        remedy: str,
        *,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.request_id = request_id
        self.headers = dict(headers or {})
        self.members = members

    def body(self) -> dict[str, Any]:
        """Return the problem's JSON members. `type` is a URN because no page of ours describes each code."""
        body: dict[str, Any] = {
            "type": f"urn:darkroom:problem:{self.code}",
            "title": self.status.phrase,
            "status": self.status.value,
            "code": self.code,
            "detail": self.detail,
            "remedy": self.remedy,
        }
        if self.request_id is not None:
            body["request_id"] = self.request_id
        return body | self.members

    def response(self) -> Response:
        """Return the problem as a response that no cache stores."""
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(json.dumps(self.body()), self.status, headers, PROBLEM_CONTENT_TYPE)


def coded(status: HTTPStatus, code: ErrorCode, detail: str | None = None, **members: Any) -> Problem:
    """Return the problem of an error code that completions use, too. Its sentence is the detail unless one is given."""
    text = describe(code)
    return Problem(status, code.value, detail or text.sentence, text.remedy, **members)


def invalid(
    detail: str, remedy: str = "Correct what is named; /openapi.json has the schema.", **members: Any
) -> Problem:
    """Return the 422 of a request that is not valid."""
    return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, ErrorCode.INVALID_REQUEST.value, detail, remedy, **members)


def body_too_large(what: str, bytes_max: int, remedy: str, *, headers: Mapping[str, str] | None = None) -> Problem:
    """Return the 413 of a body, or of a part of one, that has more than `bytes_max` bytes."""
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body_too_large",
        f"{what} has more than {bytes_max} bytes.",
        remedy,
        headers=headers,
        limit_bytes=bytes_max,
    )
