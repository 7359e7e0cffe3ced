"""Dead letters as values: the record that is published for one that cannot be a request, or that killed its worker.

A dead letter repeats the record as it was (value and headers) and adds headers that say where it stood and why it
is here. Where that would be more than a record may have, the record goes to the store whole, as JSON under
`.dead-letters/{topic}/{partition}/{offset}.json`, and the dead letter's value says where. Tenants never begin with
a dot, so no request's objects are there. `repeated` and `read_stored` give the record back. Everything here is pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from darkroom.schemas.errors import RequestRejected, bounded
from darkroom.schemas.events.completion import Source
from darkroom.schemas.names import DEFAULT_TENANT, DeadLetterHeader, ReplayHeader
from darkroom.schemas.wire.codec import decode_request

Headers = Sequence[tuple[str, bytes | None]]

RECORD_FRAMING_BYTES: Final = 512
"""Room for what Kafka adds to a record and its batch (about 100 bytes), well rounded up."""
_HEADER_FRAMING_BYTES: Final = 20
"""Two lengths, as varints of at most 5 bytes, and our counting's own slack."""
_OURS: Final = frozenset(DeadLetterHeader)


class LetterUnreadable(Exception):  # noqa: N818 - named for what was found
    """The record that a dead letter was cannot be had from it: one sentence that says why."""


class Original(NamedTuple):
    """The record as it came."""

    source: Source
    key: bytes | None
    value: bytes | None
    headers: Headers


class Reason(NamedTuple):
    """Why it is dead."""

    code: str
    """Of `darkroom.schemas.errors.ErrorCode`."""
    message: str
    attempts: int
    """How often rendering was begun."""
    worker: str


class StoredRecord(NamedTuple):
    """An object that has to be in the store before the dead letter is published. Putting it twice changes nothing."""

    key: str
    content: bytes
    content_type: str


class DeadLetter(NamedTuple):
    """A record for the dead letters topic."""

    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    stored: StoredRecord | None
    """Set where the record is too large to be repeated."""


class Origin(NamedTuple):
    """Origin of a dead letter, read from its headers."""

    source: Source
    code: str


def dead_letter(
    original: Original, reason: Reason, *, request_id: str | None, bucket: str, prefix: str = "", record_bytes_max: int
) -> DeadLetter:
    """The dead letter of a record.

    Its key is the request id where one could be read (the record then also has a completion), else
    topic-partition-offset. `bucket` and `prefix` are the store's, `record_bytes_max` the topic's `max.message.bytes`.
    What is null in the record is null in its letter. A header whose name is not UTF-8 is left out of the letter's own,
    since readers on aiokafka could not get past it: where there is one, `darkroom_source_headers` holds all headers, in
    base64.
    """
    source = original.source
    key = (request_id or coordinates(source)).encode()
    ours = _our_headers(source, reason)
    # A dead letter that is sent again and dies again carries the headers of its first death: these give way.
    theirs = [(name, value) for name, value in original.headers if name not in _OURS]
    readable = [(name, value) for name, value in theirs if _is_utf8(name)]
    headers = [*readable, *ours]
    if original.key is not None:
        headers.append((DeadLetterHeader.KEY.value, original.key))
    if len(readable) < len(theirs):
        listed = json.dumps([[_text(_name_bytes(name)), _text(value)] for name, value in theirs])
        headers.append((DeadLetterHeader.HEADERS.value, listed.encode()))
    if _size_bytes(key, original.value, headers) <= record_bytes_max:
        return DeadLetter(key, original.value, headers, None)
    stored = StoredRecord(object_key(source, prefix=prefix), _whole(original), "application/json")
    place = {
        "bucket": bucket,
        "key": stored.key,
        "size_bytes": len(stored.content),
        "sha256": hashlib.sha256(stored.content).hexdigest(),
    }
    headers = [*ours, (DeadLetterHeader.OBJECT.value, f"{bucket}/{stored.key}".encode())]
    return DeadLetter(key, json.dumps(place).encode(), headers, stored)


def coordinates(source: Source) -> str:
    """Return a record's name in a line of text: topic-partition-offset."""
    return f"{source.topic}-{source.partition}-{source.offset}"


def object_key(source: Source, *, prefix: str = "") -> str:
    """Where a record is stored that is too large to be repeated."""
    return f"{prefix}.dead-letters/{source.topic}/{source.partition}/{source.offset}.json"


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


def replayed(headers: Headers) -> str | None:
    """For the note of a replay: the coordinates of the record whose letter was replayed. None for a dead letter."""
    named = {name: value for name, value in headers if value is not None}
    if DeadLetterHeader.OFFSET in named or ReplayHeader.OF not in named:
        return None
    return named[ReplayHeader.OF].decode("utf-8", "replace")


def repeated(key: bytes | None, value: bytes | None, headers: Headers) -> Original:
    """The record that a dead letter of this key, value and headers repeats.

    A letter without the key's header gives its own key where that is a request id. Raises `LetterUnreadable` where the
    headers name no record.
    """
    found = origin(headers)
    if found is None:
        raise LetterUnreadable("its headers do not say which record it was")
    theirs = [(name, content) for name, content in headers if name not in _OURS]
    named = dict(headers)
    if (listed := named.get(DeadLetterHeader.HEADERS)) is not None:
        theirs = _listed(listed)
    if DeadLetterHeader.KEY in named:
        key = named[DeadLetterHeader.KEY]
    elif key == coordinates(found.source).encode():
        key = None
    return Original(found.source, key, value, theirs)


def stored_place(value: bytes | None) -> tuple[str, str, str]:
    """Bucket, key and SHA-256 of the object that the value of a large record's letter names.

    Raises `LetterUnreadable`.
    """
    try:
        place = json.loads(value or b"")
        bucket, key, sha256 = place["bucket"], place["key"], place["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise LetterUnreadable("its value does not say where the record is stored") from error
    if not all(isinstance(part, str) for part in (bucket, key, sha256)):
        raise LetterUnreadable("its value does not say where the record is stored")
    return bucket, key, sha256


def read_stored(content: bytes, *, sha256: str) -> Original:
    """The record that was stored whole, from the object's bytes. Raises `LetterUnreadable`."""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise LetterUnreadable("the stored record is not the one that was put there: its digest differs")
    try:
        whole = json.loads(content)
        source = Source(topic=whole["topic"], partition=whole["partition"], offset=whole["offset"])
        headers = [(_stored_name(name), _content(text)) for name, text in whole["headers"]]
        return Original(source, _content(whole["key"]), _content(whole["value"]), headers)
    except (ValueError, TypeError, KeyError, binascii.Error) as error:  # pydantic's errors are ValueErrors
        raise LetterUnreadable("the stored record is not one of ours") from error


def identity_of(original: Original) -> tuple[str, str] | None:
    """Return tenant and request id of the record, however large it is; None where none can be read."""
    try:
        request = decode_request(
            original.value, original.headers, original.key, max_bytes=len(original.value or b"")
        ).request
    except RequestRejected as rejected:
        return None if rejected.request_id is None else (rejected.tenant or DEFAULT_TENANT, rejected.request_id)
    return request.tenant, request.request_id


def _our_headers(source: Source, reason: Reason) -> list[tuple[str, bytes | None]]:
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


def _size_bytes(key: bytes, value: bytes | None, headers: Headers) -> int:
    """An upper bound on the record's size as a batch of one."""
    of_headers = sum(len(name.encode()) + len(content or b"") + _HEADER_FRAMING_BYTES for name, content in headers)
    return RECORD_FRAMING_BYTES + len(key) + len(value or b"") + of_headers


def _is_utf8(name: str) -> bool:
    """Return whether a header's name is text; of others the bytes are kept as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name_bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _listed(listed: bytes) -> list[tuple[str, bytes | None]]:
    try:
        return [
            (base64.b64decode(name, validate=True).decode("utf-8", "surrogateescape"), _content(text))
            for name, text in json.loads(listed)
        ]
    except (ValueError, TypeError) as error:
        raise LetterUnreadable(f"its header {DeadLetterHeader.HEADERS} does not list the record's headers") from error


def _whole(original: Original) -> bytes:
    """The record as JSON, its bytes in base64, null where they are null; a header's name as text where it is text."""
    return json.dumps(
        {
            "topic": original.source.topic,
            "partition": original.source.partition,
            "offset": original.source.offset,
            "key": _text(original.key),
            "value": _text(original.value),
            "headers": [
                [name if _is_utf8(name) else {"base64": _text(_name_bytes(name))}, _text(value)]
                for name, value in original.headers
            ],
        }
    ).encode()


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _stored_name(name: Any) -> str:
    return name if isinstance(name, str) else (_content(name["base64"]) or b"").decode("utf-8", "surrogateescape")


def _content(text: Any) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
