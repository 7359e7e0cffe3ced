"""The Kafka binding of CloudEvents 1.0: a record's headers and value to the event inside, and back.

Three forms are defined (CloudEvents, "Kafka Protocol Binding", version 1.0.2, section 3):

- binary: attributes in `ce_*` headers, the event's data as the value;
- structured: `content-type: application/cloudevents+json`, the value an envelope with `data` or `data_base64`;
- plain: no attribute headers at all, the value the data of a version 1 event.

Binary is what is written. What other products make of these forms is read wherever it cannot be mistaken for something
else: attribute headers named as over HTTP or AMQP, JSON quotes around header values, envelopes without their content
type, Kafka Connect's envelope, JSON text in a JSON string, and a schema registry's bytes before the JSON.

An attribute that would change what the event means (`specversion`, `type`, the content type) must be right; one that
only identifies or dates it (`id`, `source`, `time`) may be missing or odd, and that is a warning. Like the JSON reader
this never raises, because a record whose envelope is wrong may still say whose request it is.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from darkroom.schemas.errors import bounded
from darkroom.schemas.events.fields import read_timestamp
from darkroom.schemas.wire.foreign import name_of, unframed
from darkroom.schemas.wire.json import Document, read_json

Headers = Iterable[tuple[str, bytes | None]]
"""A record's headers as Kafka's clients give them; of several with one name the last that has a value counts.

Kafka allows a header without a value, which counts as absent. Names are bytes to Kafka: those that are not UTF-8 arrive
with lone surrogates (`surrogateescape`).
"""

EVENT_ID_CHARACTERS_MAX: Final = 256
"""Longer ids than any producer makes would only fill completions."""
LAYERS_MAX: Final = 5
"""Envelopes around a request. The deepest chain that products were seen to make has four (Connect's envelope around a
string around a CloudEvent whose data is a string); the bound keeps a record from choosing how often it is parsed."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_PREFIX = "ce_"
_OTHER_PREFIXES = ("ce-", "cloudevents:", "cloudevents_")
"""Of attributes by HTTP, and by AMQP (bindings 1.0.2, sections 3.1.3 each), which message frameworks use for Kafka."""
_REQUIRED = frozenset({"specversion", "type", "id", "source"})
"""Attributes that every event has (CloudEvents 1.0.2, "Required attributes")."""
_DATED = frozenset({"time"})
_FOREIGN_NAMES = (
    "its CloudEvents attributes are in headers named as over HTTP or AMQP; Kafka's binding has ce_id, ce_type, ..."
)
_STRUCTURED = "application/cloudevents"
_JSON_TYPES = frozenset({"", "application/json", "text/json", "text/plain", "application/octet-stream"})
"""Content types whose values are read as JSON. The last two say nothing of the format, and producers of strings and of
bytes write them before JSON; a value that is none is refused for that."""
_BATCH = "it is a batch of CloudEvents, and Kafka's binding has no batched mode: publish one event a record"
_DAPR_TYPE = "com.dapr.event.sent"
_QUOTED_CHARACTERS_MAX = 80
_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "true or false", type(None): "null"}


class Unwrapped(NamedTuple):
    """The event in a record."""

    document: Document
    """The event's data, or as much of it as was found; of a flawed one the flaw is in `problem`."""
    problem: str | None
    """Why the record is not an event of the expected type; None if it is one."""
    event_id: str | None = None
    time: datetime | None = None
    traceparent: str | None = None
    warnings: tuple[str, ...] = ()


class _Named(NamedTuple):
    """Headers that say something of the event, by their names in lower case, in the order in which they count."""

    plain: dict[str, str]
    """content-type and traceparent."""
    attributes: dict[str, str]
    """Of headers named ce_..., without the prefix."""
    others: dict[str, str]
    """Of headers with another binding's prefix."""


@dataclass(slots=True)
class _Reading:
    """Collects what a record says while its layers are taken off."""

    expected_type: str
    bytes_max: int
    problem: str | None = None
    event_id: str | None = None
    time: datetime | None = None
    traceparent: str | None = None
    warnings: list[str] = field(default_factory=list)
    repeated: frozenset[str] = frozenset()

    def refuse(self, problem: str | None) -> None:
        """Note a problem. The first, which is the outermost layer's, is the one that is told."""
        if self.problem is None:
            self.problem = problem

    def text(self, content: bytes | str, name: str) -> Any:
        """Return the JSON value of a text, None where there is none; `name` names the text in a problem."""
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        document = read_json(raw)
        if document.flaw is not None and raw.endswith(b"\0"):  # C programs send a string's final zero with it
            document = read_json(raw.rstrip(b"\0"))
        self.repeated |= document.repeated
        if document.flaw is not None:
            known = name_of(raw) if document.value is None else None
            self.refuse(f"{name} {document.flaw}" + (f"; {known}" if known else ""))
        return document.value

    def binary(self, named: _Named) -> None:
        """Take in the attributes that stand in headers, where there are enough of them to make an event."""
        attributes = named.attributes
        if named.others:
            attributes = {**named.others, **attributes}
        present = _REQUIRED & attributes.keys()
        if len(present) >= 2 and not present <= {"id", "source"}:
            if not (_REQUIRED & named.others.keys()) <= named.attributes.keys():
                self.warnings.append(_FOREIGN_NAMES)
            self.event(attributes)
        elif stray := present | (_DATED & attributes.keys()):
            self.warnings.append(
                f"its CloudEvents {' and '.join(sorted(stray))} alone, in a header, makes no event and was passed "
                "over: an event has ce_specversion, ce_type, ce_id and ce_source"
            )

    def event(self, attributes: Mapping[str, str]) -> None:
        """Take an event's attributes in. Those of the outermost envelope identify it."""
        self.refuse(_attribute_problem(attributes, self.expected_type))
        event_id, time = _identify(attributes, self.warnings)
        self.event_id = self.event_id or event_id
        self.time = self.time or time


def unwrap(value: bytes, headers: Headers, expected_type: str, *, bytes_max: int) -> Unwrapped:
    """Find the event's data and attributes in a record, whichever form it has. Never raise.

    A value that was compressed by a schema registry's serializer is inflated up to `bytes_max` bytes.
    """
    named = _named(headers)
    content_type = _media_type(named.plain.get("content-type", ""))
    reading = _Reading(expected_type, bytes_max)
    reading.traceparent = _traceparent(named)
    if content_type.startswith(_STRUCTURED):
        reading.refuse(_structured_problem(content_type))
    else:
        if named.attributes or named.others:
            reading.binary(named)
        reading.refuse(_content_problem(content_type))
    found = _layered(_parsed(value, reading), reading, is_event=content_type == f"{_STRUCTURED}+json")
    return Unwrapped(
        Document(found, None, reading.repeated),
        reading.problem,
        reading.event_id,
        reading.time,
        reading.traceparent,
        tuple(reading.warnings),
    )


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


def _parsed(value: bytes, reading: _Reading) -> Any:
    if value[:1] in (b"\x00", b"\x01", b"\x03"):
        value, problem = unframed(value, reading.bytes_max)
        reading.refuse(problem)
    if not value:
        reading.refuse("its value is empty")
        return None
    return reading.text(value, "its value")


def _layered(value: Any, reading: _Reading, *, is_event: bool) -> Any:
    """Return what stands inside of all envelopes. `is_event` says that the first object is a CloudEvent."""
    for _ in range(LAYERS_MAX + 1):
        if isinstance(value, dict):
            if is_event or _is_event(value):
                is_event = False
                value, whole = _event_data(value, reading)
            elif len(value) == 2 and "schema" in value and "payload" in value:
                value, whole = _connect_payload(value, reading)
            else:
                return value
        elif isinstance(value, str) and value.lstrip("\ufeff \t\r\n")[:1] in ("{", "[", '"'):
            value, whole = reading.text(value, "the JSON text in its string"), True
        elif isinstance(value, list):
            reading.refuse(_batch_problem(value))
            value, whole = (value[0], True) if len(value) == 1 else (None, False)
        else:
            break
        if not whole:
            return value
    if isinstance(value, dict):
        reading.refuse(f"it has more than {LAYERS_MAX} envelopes around each other")
        return None
    reading.refuse(_not_an_object(value))
    return value


def _is_event(members: dict[str, Any]) -> bool:
    """Tell an envelope by members that no event of ours has, whatever its content type says."""
    return "specversion" in members and ("data" in members or "data_base64" in members or "request_id" not in members)


def _event_data(members: dict[str, Any], reading: _Reading) -> tuple[Any, bool]:
    """Return the data of a structured event, and False where there is none: then the envelope itself."""
    attributes = {name: text for name, text in members.items() if isinstance(text, str)}
    reading.event(attributes)
    reading.traceparent = reading.traceparent or _traceparent(_Named({}, attributes, {}))
    # Serializers that write null for what is unset write both members.
    data, encoded = members.get("data"), members.get("data_base64")
    if (data is None) == (encoded is None):
        reading.refuse("its envelope needs either data or data_base64")
        return members, False
    if encoded is None:
        return data, True
    return _decoded(encoded, "its data_base64", reading)


def _connect_payload(members: dict[str, Any], reading: _Reading) -> tuple[Any, bool]:
    """Return the payload of Kafka Connect's envelope (JsonConverter, schemas.enable=true); its bytes are in base64."""
    schema, payload = members["schema"], members["payload"]
    if payload is None:
        reading.refuse("it is Kafka Connect's envelope without a payload")
        return members, False
    if isinstance(schema, dict) and schema.get("type") == "bytes" and isinstance(payload, str):
        return _decoded(payload, "the payload of its Kafka Connect envelope", reading)
    return payload, True


def _decoded(text: Any, name: str, reading: _Reading) -> tuple[Any, bool]:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        reading.refuse(f"{name} is not base64")
        return None, False
    return reading.text(content, f"the text in {name}"), True


def _batch_problem(values: list[Any]) -> str:
    if any(isinstance(one, dict) and "specversion" in one for one in values):
        return _BATCH
    return "its value is an array, not one JSON object: publish one request a record"


def _not_an_object(value: Any) -> str:
    kind = next((name for kind, name in _KINDS.items() if isinstance(value, kind)), "a number")
    known = name_of(value.encode("utf-8", "surrogatepass")) if isinstance(value, str) else None
    return f"it is {kind} where a JSON object belongs" + (f"; {known}" if known else "")


def _named(headers: Headers) -> _Named:
    named = _Named({}, {}, {})
    for name, raw in headers:
        if raw is None or (text := _text(raw)) is None:
            continue
        lower = name.lower()
        if lower.startswith(_PREFIX):
            named.attributes[lower[3:]] = text
        elif lower in ("content-type", "traceparent"):
            named.plain[lower] = text
        elif lower.startswith(_OTHER_PREFIXES):
            prefix = next(one for one in _OTHER_PREFIXES if lower.startswith(one))
            named.others[lower.removeprefix(prefix)] = text
    return named


def _attribute_problem(attributes: Mapping[str, str], expected_type: str) -> str | None:
    version, event_type = attributes.get("specversion"), attributes.get("type")
    if version is None:
        return "it has CloudEvents attributes but no specversion; use 1.0"
    if version != "1.0":
        return f"its CloudEvents specversion is {_quote(version)}; use 1.0"
    if event_type is None:
        return f"it has CloudEvents attributes but no type; use {expected_type}"
    if event_type == _DAPR_TYPE:
        return f"its CloudEvents type is Dapr's default; publish with the metadata cloudevent.type={expected_type}"
    if event_type != expected_type:
        return f"its CloudEvents type is {_quote(event_type)}; use {expected_type}"
    return _content_problem(_media_type(attributes.get("datacontenttype", "")))


def _identify(attributes: Mapping[str, str], warnings: list[str]) -> tuple[str | None, datetime | None]:
    """Return the event's id and time, each None where it cannot be used, and add a warning for what is odd."""
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
    return event_id, time


def _structured_problem(content_type: str) -> str | None:
    if content_type == f"{_STRUCTURED}+json":
        return None
    if content_type.startswith(f"{_STRUCTURED}-batch"):
        return _BATCH
    return f"its content type {_quote(content_type)} is not read; use {_STRUCTURED}+json"


def _content_problem(content_type: str) -> str | None:
    if content_type in _JSON_TYPES or content_type.endswith("+json"):
        return None
    return f"its content type is {_quote(content_type)}; use application/json"


def _media_type(content_type: str) -> str:
    """Return a content type without its parameters."""
    if content_type == "application/json":
        return content_type
    return content_type.partition(";")[0].strip().lower()


def _traceparent(named: _Named) -> str | None:
    """Return the W3C trace context, from the header of its own name or from the CloudEvents extension."""
    for kind in named:
        text = kind.get("traceparent")
        if text is not None and _TRACEPARENT.fullmatch(text):
            return text
    return None


def _text(raw: bytes) -> str | None:
    """Return a header's text, without the JSON quotes that Spring and Connect write around some; None for no text."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    if text.startswith('"') and text.endswith('"'):
        try:
            inner = json.loads(text)
        except ValueError:
            return text
        return inner if isinstance(inner, str) else text
    return text


def _quote(text: str) -> str:
    return f"'{bounded(text, _QUOTED_CHARACTERS_MAX)}'"
