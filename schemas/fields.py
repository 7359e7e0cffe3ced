"""The field types that several events share, and how all events' models read."""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, Strict

from schemas.names import ADAPTER_NAME_PATTERN, IDENTITY_PATTERN

STRICT: Final = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)
"""How every event's model reads: exact types, finite numbers, unknown fields passed over (the codec reports them)."""

LABELS_MAX: Final = 16
LABEL_KEY_CHARACTERS_MAX: Final = 64
LABEL_VALUE_CHARACTERS_MAX: Final = 256

_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_YEAR_MIN, _YEAR_MAX = 1970, 9998
"""Outside of these a conversion between time zones can overflow, and no event is from there."""


def composed(text: str) -> str:
    """Return `text` in Unicode's composed form (NFC): macOS writes a letter and its accent apart, others as one."""
    return unicodedata.normalize("NFC", text)


def read_timestamp(text: str) -> datetime:
    """The moment that an RFC 3339 text names, in UTC. Raises `ValueError` for any other text."""
    if not _RFC3339.fullmatch(text):
        raise ValueError("must be an RFC 3339 date and time with a time zone, such as 2027-01-31T12:00:00Z")
    return _in_utc(datetime.fromisoformat(text.upper()))


def _from_text(value: Any) -> Any:
    """Pydantic also reads a Unix time in a string; RFC 3339 alone is promised."""
    return read_timestamp(value) if isinstance(value, str) else value


def _in_utc(value: datetime) -> datetime:
    """One zone everywhere, so that equal times are written alike."""
    if not _YEAR_MIN <= value.year <= _YEAR_MAX:
        raise ValueError(f"must be of a year from {_YEAR_MIN} to {_YEAR_MAX}")
    return value.astimezone(UTC)


Timestamp = Annotated[AwareDatetime, BeforeValidator(_from_text), AfterValidator(_in_utc)]
"""A moment: RFC 3339 with a time zone, held in UTC."""

Identity = Annotated[str, Field(pattern=IDENTITY_PATTERN)]
"""A request id or a tenant."""

AdapterName = Annotated[str, Field(pattern=ADAPTER_NAME_PATTERN), AfterValidator(composed)]
"""What the adapter's file is called, without the ending."""

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
"""A SHA-256, as `schemas.fingerprints` writes it."""

Labels = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=LABEL_KEY_CHARACTERS_MAX)],
        Annotated[str, Field(max_length=LABEL_VALUE_CHARACTERS_MAX)],
    ],
    Field(max_length=LABELS_MAX),
]
"""Names and values of the requester's own, given back as they came."""

Warnings = Annotated[tuple[Annotated[str, Field(max_length=500)], ...], Strict(False), Field(max_length=32)]
"""Sentences for the requester about a request that was rendered all the same."""
