"""The Kafka binding of CloudEvents 1.0: a record's headers and value to the event inside, and back.

Three forms are read (CloudEvents, "Kafka Protocol Binding", version 1.0.2, section 3):

- binary: attributes in `ce_*` headers, the event's data as the value;
- structured: `content-type: application/cloudevents+json`, the value an envelope with `data` or `data_base64`;
- plain: no attribute headers at all, the value the data of a version 1 event.

Binary is what is written. An attribute that would change what the event means (`specversion`, `type`, the content
type) must be right; one that only identifies or dates it (`id`, `source`, `time`) may be missing or odd, and that
is a warning. Like the JSON reader this never raises, because a record whose envelope is wrong may still say whose
request it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from schemas.errors import bounded
from schemas.fields import read_timestamp
from schemas.strictjson import Document, read_json

Headers = Sequence[tuple[str, bytes | None]]
"""A record's headers as Kafka's clients give them; of several with one name the last counts."""

EVENT_ID_CHARACTERS_MAX: Final = 256
"""Longer ids than any producer makes would only fill completions."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_ATTRIBUTES = frozenset({"ce_specversion", "ce_type", "ce_id", "ce_source"})
_QUOTED_CHARACTERS_MAX = 80


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """The event in a record."""

    data: bytes
    """The event's data, JSON text if `problem` is None."""
    document: Document
    """The same, read."""
    problem: str | None
    """Why the record is not an event of the expected type; None if it is one."""
    event_id: str | None = None
    time: datetime | None = None
    traceparent: str | None = None
    warnings: tuple[str, ...] = ()


def unwrap(value: bytes, headers: Headers, expected_type: str) -> Unwrapped:
    """Find the event's data and attributes in a record, whichever form it has. Never raises."""
    named = {name.lower(): text for name, raw in headers if (text := _text(raw)) is not None}
    content_type = named.get("content-type", "").partition(";")[0].strip().lower()
    if content_type.startswith("application/cloudevents"):
        return _structured(value, named, content_type, expected_type)
    document = read_json(value)
    traceparent = _traceparent(named)
    problem = _json_problem(content_type, document)
    if not any(name in _ATTRIBUTES for name, _ in headers):
        return Unwrapped(_without_mark(value), document, problem, traceparent=traceparent)
    attributes = {name.removeprefix("ce_"): text for name, text in named.items() if name.startswith("ce_")}
    event_id, time, warnings = _identify(attributes)
    problem = _attribute_problem(attributes, expected_type) or problem
    return Unwrapped(_without_mark(value), document, problem, event_id, time, traceparent, warnings)


def wrap(
    *, event_type: str, source: str, event_id: str, time: datetime, traceparent: str | None
) -> list[tuple[str, bytes]]:
    """The headers of an event in binary form. `time` must have a time zone."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_type": event_type,
        "ce_source": source,
        "ce_time": time.isoformat().replace("+00:00", "Z"),
        "content-type": "application/json",
    }
    if traceparent is not None:
        headers["traceparent"] = traceparent
    return [(name, text.encode()) for name, text in headers.items()]


def _structured(value: bytes, named: Mapping[str, str], content_type: str, expected_type: str) -> Unwrapped:
    envelope = read_json(value)
    if content_type != "application/cloudevents+json":
        return Unwrapped(value, envelope, f"its content type {_quote(content_type)} is not read; use JSON")
    if not isinstance(envelope.value, dict):
        return Unwrapped(value, envelope, f"its envelope {envelope.flaw or 'is not a JSON object'}")
    attributes = {name: text for name, text in envelope.value.items() if isinstance(text, str)}
    event_id, time, warnings = _identify(attributes)
    data, document, problem = _enveloped_data(envelope)
    problem = _attribute_problem(attributes, expected_type) or problem
    traceparent = _traceparent({**named, "ce_traceparent": attributes.get("traceparent", "")})
    return Unwrapped(data, document, problem, event_id, time, traceparent, warnings)


def _enveloped_data(envelope: Document) -> tuple[bytes, Document, str | None]:
    """The data of an envelope: its bytes, what they say, and what is wrong with them."""
    members: dict[str, Any] = envelope.value
    if ("data" in members) == ("data_base64" in members):
        return b"", Document(members, None, envelope.repeated), "its envelope needs either data or data_base64"
    if "data" in members:
        inner = Document(members["data"], envelope.flaw, envelope.repeated)
        problem = None if inner.flaw is None else f"its envelope {inner.flaw}"
        try:
            return json.dumps(inner.value).encode(), inner, problem
        except RecursionError:
            return b"", inner, "its envelope is nested too deeply"
    try:
        decoded = base64.b64decode(members["data_base64"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        return b"", Document(None, None, envelope.repeated), "its data_base64 is not base64"
    inner = read_json(decoded)
    flaw = f"its envelope {envelope.flaw}" if envelope.flaw else _json_problem("", inner)
    return _without_mark(decoded), inner, flaw


def _attribute_problem(attributes: Mapping[str, str], expected_type: str) -> str | None:
    version, event_type = attributes.get("specversion"), attributes.get("type")
    if version is None:
        return "it has CloudEvents attributes but no specversion; use 1.0"
    if version != "1.0":
        return f"its CloudEvents specversion is {_quote(version)}; use 1.0"
    if event_type is None:
        return f"it has CloudEvents attributes but no type; use {expected_type}"
    if event_type != expected_type:
        return f"its CloudEvents type is {_quote(event_type)}; use {expected_type}"
    content_type = attributes.get("datacontenttype", "").partition(";")[0].strip().lower()
    return _content_problem(content_type)


def _identify(attributes: Mapping[str, str]) -> tuple[str | None, datetime | None, tuple[str, ...]]:
    """The event's id and time, each None where it cannot be used, with a warning for what is odd."""
    warnings: list[str] = []
    event_id = attributes.get("id")
    if event_id is None:
        warnings.append("the event has no CloudEvents id")
    elif not 1 <= len(event_id) <= EVENT_ID_CHARACTERS_MAX or not event_id.isprintable():
        warnings.append(f"the event's CloudEvents id is not 1-{EVENT_ID_CHARACTERS_MAX} printable characters")
        event_id = None
    if not attributes.get("source"):
        warnings.append("the event has no CloudEvents source")
    time = None
    if "time" in attributes:
        try:
            time = read_timestamp(attributes["time"])
        except ValueError:
            warnings.append("the event's CloudEvents time is not an RFC 3339 time")
    return event_id, time, tuple(warnings)


def _json_problem(content_type: str, document: Document) -> str | None:
    return _content_problem(content_type) or (f"its value {document.flaw}" if document.flaw else None)


def _content_problem(content_type: str) -> str | None:
    if content_type in {"", "application/json", "text/json"} or content_type.endswith("+json"):
        return None
    return f"its content type is {_quote(content_type)}; use application/json"


def _traceparent(named: Mapping[str, str]) -> str | None:
    """The W3C trace context, from the header of its own name or from the CloudEvents extension."""
    for name in ("traceparent", "ce_traceparent"):
        text = named.get(name, "")
        if _TRACEPARENT.fullmatch(text):
            return text
    return None


def _text(raw: bytes | None) -> str | None:
    if raw is None:
        return None
    try:
        return bytes(raw).decode()
    except UnicodeDecodeError:
        return None


def _without_mark(value: bytes) -> bytes:
    return value.removeprefix(b"\xef\xbb\xbf")


def _quote(text: str) -> str:
    return f"'{bounded(text, _QUOTED_CHARACTERS_MAX)}'"
