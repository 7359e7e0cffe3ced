"""Signs requests by the SDK's signer, for the first time and, with other keys, again.

The rule: Amazon S3 API Reference, "Authenticating Requests: Using the Authorization Header (AWS Signature Version 4)".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, urlsplit

from minio.credentials.credentials import Credentials
from minio.signer import sign_v4_s3

PAYLOAD: Final = "x-amz-content-sha256"
_DATE_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_OF_A_SIGNATURE: Final = frozenset({"authorization", "x-amz-date", "x-amz-security-token"})


class Renewable(Protocol):
    """Keys that may be renewed: the part of `darkroom.producer.store.identities.Identity` that is needed here."""

    def retrieve(self) -> Credentials:
        """Return the keys as they are now."""

    def renewed(self, refused: Credentials) -> bool:
        """Return whether there are others than the refused ones by now."""


def signed(
    keys: Credentials,
    region: str,
    method: str,
    url: SplitResult,
    headers: Mapping[str, Any],
    *,
    date: datetime | None = None,
) -> dict[str, Any]:
    """Return the headers with a signature over all of them. `Host` and `PAYLOAD` must be among them."""
    date = date or datetime.now(UTC)
    unsigned = {name: value for name, value in headers.items() if name.lower() not in _OF_A_SIGNATURE}
    unsigned["x-amz-date"] = date.strftime(_DATE_FORMAT)
    if keys.session_token:
        unsigned["x-amz-security-token"] = keys.session_token
    return sign_v4_s3(
        method=method,
        url=url,
        region=region,
        headers=unsigned,
        credentials=keys,
        content_sha256=_value(headers, PAYLOAD),
        date=date,
    )


def signed_anew(
    identity: Renewable, region: str, method: str, url: str, headers: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Return the headers of a refused request with a signature by other keys; None where there are no others.

    The same signature comes from the same keys, so it tells whether they have been renewed since the request was sent.
    """
    if not _value(headers, "authorization"):
        return None
    address, keys = urlsplit(url), identity.retrieve()
    sent_at = datetime.strptime(_value(headers, "x-amz-date"), _DATE_FORMAT).replace(tzinfo=UTC)
    same = signed(keys, region, method, address, headers, date=sent_at)
    if _value(same, "authorization") == _value(headers, "authorization"):
        if not identity.renewed(keys):
            return None
        keys = identity.retrieve()
    return signed(keys, region, method, address, headers)


def _value(headers: Mapping[str, Any], wanted: str) -> str:
    return next((str(value) for name, value in headers.items() if name.lower() == wanted), "")
