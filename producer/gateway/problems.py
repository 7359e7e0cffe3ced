"""What the gateway says when it refuses: RFC 9457 problem details, one shape for every error.

`detail` is one sentence of what happened, to which request; `remedy` is what the caller can do. Nothing of the
server's inside is ever in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

PROBLEM_CONTENT_TYPE = "application/problem+json"


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
        """The problem as JSON members. `type` is a URN, since no page of ours describes each code."""
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
