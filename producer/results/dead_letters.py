"""Dead letters as values: the record that is published for one that cannot be a request, or that killed its worker.

A dead letter repeats the record as it was (value and headers) and adds headers that say where it stood and why it
is here. Where that would be more than a record may have, the record goes to the store whole, as JSON under
`.dead-letters/{topic}/{partition}/{offset}.json`, and the dead letter's value says where. Tenants never begin with
a dot, so no request's objects are there. Everything here is pure.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from typing import Final, NamedTuple

from schemas.completion import Source
from schemas.errors import bounded
from schemas.names import DeadLetterHeader

Headers = Sequence[tuple[str, bytes | None]]

RECORD_FRAMING_BYTES: Final = 512
"""Room for what Kafka adds to a record and its batch (about 100 bytes), well rounded up."""
_HEADER_FRAMING_BYTES: Final = 20
"""Two lengths, as varints of at most 5 bytes, and our counting's own slack."""
_OURS: Final = frozenset(DeadLetterHeader)


class Original(NamedTuple):
    """The record as it came."""

    source: Source
    key: bytes | None
    value: bytes | None
    headers: Headers


class Reason(NamedTuple):
    """Why it is dead."""

    code: str
    """Of `schemas.errors.ErrorCode`."""
    message: str
    attempts: int
    """How often rendering was begun."""
    worker: str


class StoredRecord(NamedTuple):
    """What is to be in the store before the dead letter is published. Putting it twice changes nothing."""

    key: str
    content: bytes
    content_type: str


class DeadLetter(NamedTuple):
    """A record for the dead letters topic."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]
    stored: StoredRecord | None
    """Set where the record is too large to be repeated."""


class Origin(NamedTuple):
    """What a dead letter's headers say of the record it was."""

    source: Source
    code: str


def dead_letter(
    original: Original, reason: Reason, *, request_id: str | None, bucket: str, record_bytes_max: int
) -> DeadLetter:
    """The dead letter of a record.

    Its key is the request id where one could be read (the record then also has a completion), else
    topic-partition-offset. `bucket` is the store's, `record_bytes_max` the topic's `max.message.bytes`. A null value
    or header is repeated as an empty one.
    """
    source = original.source
    coordinates = f"{source.topic}-{source.partition}-{source.offset}"
    key = (request_id or coordinates).encode()
    ours = _our_headers(source, reason)
    # A dead letter that is sent again and dies again carries the headers of its first death: these give way.
    theirs = [(name, value or b"") for name, value in original.headers if name not in _OURS]
    value = original.value or b""
    if _size_bytes(key, value, [*theirs, *ours]) <= record_bytes_max:
        return DeadLetter(key, value, [*theirs, *ours], None)
    stored = StoredRecord(object_key(source), _whole(original), "application/json")
    place = {
        "bucket": bucket,
        "key": stored.key,
        "size_bytes": len(stored.content),
        "sha256": hashlib.sha256(stored.content).hexdigest(),
    }
    headers = [*ours, (DeadLetterHeader.OBJECT.value, f"{bucket}/{stored.key}".encode())]
    return DeadLetter(key, json.dumps(place).encode(), headers, stored)


def object_key(source: Source) -> str:
    """Where a record is stored that is too large to be repeated."""
    return f".dead-letters/{source.topic}/{source.partition}/{source.offset}.json"


def origin(headers: Headers) -> Origin | None:
    """Which record a dead letter was, and its error code; None where its headers do not say so."""
    named = {name: value for name, value in headers if value is not None}
    try:
        source = Source(
            topic=named[DeadLetterHeader.TOPIC].decode(),
            partition=int(named[DeadLetterHeader.PARTITION]),
            offset=int(named[DeadLetterHeader.OFFSET]),
        )
        return Origin(source, named[DeadLetterHeader.ERROR_CODE].decode())
    except (KeyError, ValueError):  # pydantic's and the decoder's errors are ValueErrors
        return None


def _our_headers(source: Source, reason: Reason) -> list[tuple[str, bytes]]:
    values = {
        DeadLetterHeader.TOPIC: source.topic,
        DeadLetterHeader.PARTITION: str(source.partition),
        DeadLetterHeader.OFFSET: str(source.offset),
        DeadLetterHeader.ERROR_CODE: str(reason.code),
        DeadLetterHeader.ERROR_MESSAGE: bounded(reason.message),
        DeadLetterHeader.ATTEMPTS: str(reason.attempts),
        DeadLetterHeader.WORKER: reason.worker,
    }
    return [(name.value, value.encode()) for name, value in values.items()]


def _size_bytes(key: bytes, value: bytes, headers: Sequence[tuple[str, bytes]]) -> int:
    """An upper bound on the record's size as a batch of one."""
    of_headers = sum(len(name.encode()) + len(content) + _HEADER_FRAMING_BYTES for name, content in headers)
    return RECORD_FRAMING_BYTES + len(key) + len(value) + of_headers


def _whole(original: Original) -> bytes:
    """The record as JSON, its bytes in base64, null where they are null."""
    return json.dumps(
        {
            "topic": original.source.topic,
            "partition": original.source.partition,
            "offset": original.source.offset,
            "key": _text(original.key),
            "value": _text(original.value),
            "headers": [[name, _text(value)] for name, value in original.headers],
        }
    ).encode()


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
