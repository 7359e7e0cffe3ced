"""Reads a store's refusal from whatever format it is written in.

The SDK reads an error's document only as `application/xml`. Servers also write `text/xml`, JSON, plain text or nothing
(RFC 9110: an answer to HEAD has no body), and proxies write HTML. Here each becomes the SDK's own error, with a code by
its status where it names none.
"""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple
from xml.etree import ElementTree

import urllib3
from minio.error import S3Error

from darkroom.producer.store.s3_signing import Renewable, signed_anew

_BODY_BYTES_MAX: Final = 64 * 1024
"""An error's document has a few hundred bytes."""
_BY_STATUS: Final[dict[int, str]] = {
    301: "PermanentRedirect",
    302: "Redirect",
    307: "TemporaryRedirect",
    308: "PermanentRedirect",
    400: "BadRequest",
    401: "Unauthorized",
    403: "AccessDenied",
    405: "MethodNotAllowed",
    407: "ProxyAuthenticationRequired",
    409: "Conflict",
    411: "MissingContentLength",
    412: "PreconditionFailed",
    413: "EntityTooLarge",
    429: "SlowDown",
    501: "NotImplemented",
    503: "ServiceUnavailable",
    507: "InsufficientStorage",
}


_OF_KEYS: Final = frozenset({400, 401, 403})
KEYS_REFUSED: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidToken",
        "InvalidTokenId",
        "TokenRefreshRequired",
        "InvalidAccessKeyId",
        "InvalidAccessKey",
        "SignatureDoesNotMatch",
    }
)
"""Codes of an answer that other keys might change."""


class Told(NamedTuple):
    """Code and message of a refusal."""

    code: str
    message: str
    region: str
    """The region that it expects; empty where it names none."""


def error_of(response: urllib3.BaseHTTPResponse, bucket: str, key: str | None = None) -> S3Error:
    """Return the SDK's error for an answer that is no success."""
    told = told_by(response, is_object=key is not None)
    resource = f"/{bucket}/{key or ''}"
    return S3Error(response, told.code, told.message, resource, None, None, bucket, key)


def told_by(response: urllib3.BaseHTTPResponse, *, is_object: bool = False) -> Told:
    """Return what the answer's document says, and for what it leaves out what its status and headers do."""
    body = _body(response)
    values = _of_xml(body) or _of_json(body)
    code = (
        values.get("code") or response.headers.get("x-minio-error-code") or values.get("__type", "").rpartition("#")[2]
    )
    if not code and response.status == 404:
        code = "NoSuchKey" if is_object else "NoSuchBucket"
    code = code or _BY_STATUS.get(response.status) or f"HTTP {response.status}"
    text = "" if values else body[:500].decode("utf-8", "replace").strip()
    region = values.get("region") or response.headers.get("x-amz-bucket-region") or ""
    return Told(code, values.get("message") or text, region)


class Reading(urllib3.PoolManager):
    """Connections that hand the SDK no error it cannot read: those are raised as its own error.

    A request whose keys are refused is signed again and sent again, once, where there are other keys by then: temporary
    ones end, files are replaced. So whoever sends, the SDK or `Sending`, need not know of it.
    """

    def __init__(self, identity: Renewable | None, region: str, **pool: Any) -> None:
        """`pool` is what the base class takes."""
        super().__init__(**pool)
        self._identity = identity
        self._region = region

    def urlopen(  # type: ignore[override]
        self, method: str, url: str, redirect: bool = True, **more: Any
    ) -> urllib3.BaseHTTPResponse:
        """As the base class says. Raises `S3Error`."""
        response: urllib3.BaseHTTPResponse = super().urlopen(method, url, redirect=redirect, **more)
        if self._identity is not None and _is_about_keys(method, response):
            sent = more.get("headers") or {}
            if (headers := signed_anew(self._identity, self._region, method, url, sent)) is not None:
                response.release_conn()
                response = super().urlopen(method, url, redirect=redirect, **{**more, "headers": headers})
        kind = response.headers.get("content-type", "")
        # The SDK (7.2.20) makes a ValueError of a conflict that a HEAD is answered with.
        is_head = method == "HEAD" and response.status != 409
        if response.status < 300 or response.status == 304 or is_head or "application/xml" in kind.split(";"):
            return response
        told = told_by(response)
        raise S3Error(response, told.code, told.message, None, None, None)


def _is_about_keys(method: str, response: urllib3.BaseHTTPResponse) -> bool:
    """Whether other keys might be let in. The answer to a HEAD has no document to say so (RFC 9110)."""
    if response.status not in _OF_KEYS:
        return False
    if method == "HEAD" and "x-minio-error-code" not in response.headers:
        return True
    return told_by(response).code in KEYS_REFUSED


def _body(response: urllib3.BaseHTTPResponse) -> bytes:
    try:
        return bytes(response.data or b"")[:_BODY_BYTES_MAX]
    except urllib3.exceptions.HTTPError:
        return b""


def _of_xml(body: bytes) -> dict[str, str]:
    """The texts of an error's elements, by their names in lower case; empty where it is none."""
    if not body.lstrip().startswith(b"<") or b"<!DOCTYPE" in body[:1000] or b"<!ENTITY" in body:
        return {}
    try:
        root = ElementTree.fromstring(body)  # noqa: S314 - it declares no entities
    except (ElementTree.ParseError, ValueError, LookupError):
        return {}
    values = {one.tag.rpartition("}")[2].lower(): (one.text or "").strip() for one in root.iter()}
    return values if "code" in values else {}


def _of_json(body: bytes) -> dict[str, str]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    if isinstance(document, dict):
        inner = document.get("error", document.get("Error"))
        document = inner if isinstance(inner, dict) else document
        values = {str(name).lower(): value for name, value in document.items() if isinstance(value, str)}
        if "code" in values or "__type" in values:
            return values
    return {}
