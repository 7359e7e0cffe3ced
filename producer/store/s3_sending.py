"""Requests that the minio SDK has no public way to send, signed by its signer and sent over its connections.

These are the puts, which carry a condition, a checksum and the encryption asked for, and what is said about a bucket as
a document: its lifecycle rules, its tags. Every header is signed and nothing of the signature is in the address, which
a library's log might repeat. The formats: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)",
`PutObject`, `PutBucketLifecycleConfiguration`, `PutBucketTagging`.

The checksum is `Content-MD5` (RFC 1864): buckets with object lock demand a checksum, and of the two kinds that S3 takes
this is the one that every server knows. With SSE-KMS it is still of the bytes that were sent, as the ETag is not.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import urllib3
from minio import Minio
from minio.error import S3Error

from darkroom.producer.store.identities import Identity
from darkroom.producer.store.s3_answers import error_of
from darkroom.producer.store.s3_client import PAUSE_S, TRY_AGAIN
from darkroom.producer.store.s3_signing import PAYLOAD, signed
from darkroom.schemas.settings import S3Settings

_UNSIGNED: Final = "UNSIGNED-PAYLOAD"
"""Over TLS the body needs no digest of its own in the signature: the checksum is signed, and TLS keeps the rest."""
_ADDRESS_FOR: Final = timedelta(minutes=1)
"""The address that the SDK builds is used without its signature."""
_STAND_IN: Final = "-"
_WRITTEN, _STANDS, _CONFLICT = (200, 204), 412, 409


class BusyWithoutEnd(Exception):  # noqa: N818 - named for what happened
    """Others write this key whenever it is tried (HTTP 409)."""


class Sending:
    """Signs and sends; for any number of threads."""

    def __init__(self, s3: S3Settings, identity: Identity | None, client: Minio, http: urllib3.PoolManager) -> None:
        self._s3 = s3
        self._identity = identity
        self._client = client
        self._http = http

    def put(self, key: str, content: bytes, content_type: str, *, if_absent: bool) -> bool:
        """Write an object of the own bucket. False where `if_absent` and one stands.

        Raises `BusyWithoutEnd`, and what the SDK and urllib3 raise.
        """
        headers = {"Content-Type": content_type, **self._encryption()}
        if if_absent:
            headers["If-None-Match"] = "*"
        for attempt in range(1, self._s3.attempts + 1):
            if attempt > 1:
                time.sleep(PAUSE_S * 2 ** (attempt - 2))
            try:
                # urllib3's own tries would send an old signature again.
                response = self._send("PUT", self._s3.bucket, key, headers=headers, body=content, retries=False)
            except urllib3.exceptions.HTTPError:
                if attempt == self._s3.attempts:
                    raise
                continue
            if response.status in _WRITTEN:
                return True
            if if_absent and response.status == _STANDS:
                return False
            if response.status not in (_CONFLICT, *TRY_AGAIN):
                break
        if response.status == _CONFLICT and if_absent:
            raise BusyWithoutEnd(key)
        raise error_of(response, self._s3.bucket, key)

    def ask(
        self,
        method: str,
        bucket: str,
        query: Mapping[str, str],
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Ask about a bucket: an answer of success. Raises what the SDK and urllib3 raise."""
        response = self._send(method, bucket, query=query, body=body, headers=headers or {})
        if response.status not in _WRITTEN:
            raise error_of(response, bucket)
        return response

    def _send(
        self,
        method: str,
        bucket: str,
        key: str | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str],
        body: bytes = b"",
        retries: bool | None = None,
    ) -> urllib3.BaseHTTPResponse:
        address = urlsplit(self._client.get_presigned_url("GET", bucket, key or _STAND_IN, _ADDRESS_FOR))
        path = address.path if key is not None else address.path.removesuffix(f"/{_STAND_IN}") or "/"
        url = address._replace(path=path, query=urlencode(query or {}, quote_via=quote))
        sent: dict[str, Any] = dict(headers)
        if body or method == "PUT":
            digest = hashlib.md5(body, usedforsecurity=False).digest()
            sent["Content-MD5"] = base64.b64encode(digest).decode()
        if self._identity is not None:
            payload = _UNSIGNED if self._s3.secure else hashlib.sha256(body).hexdigest()
            sent |= {"Host": url.netloc, PAYLOAD: payload}
            sent = signed(self._identity.retrieve(), self._s3.region, method, url, sent)
        try:
            return self._http.request(method, urlunsplit(url), body=body, headers=sent, retries=retries)
        except S3Error as error:  # our connections have read an answer that the SDK cannot
            return error.response

    def _encryption(self) -> dict[str, str]:
        if self._s3.sse == "none":
            return {}
        headers: dict[str, str] = {"x-amz-server-side-encryption": self._s3.sse}
        if self._s3.sse_kms_key_id is not None:
            headers["x-amz-server-side-encryption-aws-kms-key-id"] = self._s3.sse_kms_key_id
        return headers
