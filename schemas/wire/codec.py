"""Bytes to typed events and back: the only place where a record's value is interpreted.

Every decoder is total: whatever the bytes and headers are, it returns an event or raises the one error that it
documents. So the worker can promise an outcome for each record without knowing how records can be broken.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from types import NoneType
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from darkroom.schemas.errors import ErrorCode, EventUnreadable, RequestRejected, bounded
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.pose import TAGS
from darkroom.schemas.events.progress import Cancellation, Progress
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.events.unsupported import UnknownField, refusal_of, spelt_otherwise
from darkroom.schemas.faults import said
from darkroom.schemas.names import CLIENT_SOURCE, DEFAULT_TENANT, WORKER_SOURCE, EventType, is_identity, stand_in_tenant
from darkroom.schemas.wire.cloudevents import Headers, Unwrapped, unwrap, wrap
from darkroom.schemas.wire.digests import request_digest
from darkroom.schemas.wire.foreign import wrapper_of
from darkroom.schemas.wire.json import Document

REQUEST_BYTES_MAX: Final = 1024 * 1024
"""The size of a record's value that is still read: Kafka's own default bound on a batch of records."""

UNKNOWN_FIELDS_SHOWN_MAX: Final = 10
_PATH_CHARACTERS_MAX: Final = 100
_ERRORS_SHOWN_MAX: Final = 3

_KINDS: Final = {str: "text", bool: "true or false", NoneType: "null", dict: "an object", list: "an array"}

EventT = TypeVar("EventT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A request and what its record said beside it."""

    request: GenerationRequest
    digest: str
    """`darkroom.schemas.wire.digests.request_digest` of the request."""
    event_id: str | None = None
    """The CloudEvents id; None where there is none, and the record's coordinates have to name it."""
    requested_at: datetime | None = None
    """The CloudEvents time, in UTC."""
    traceparent: str | None = None
    """The W3C trace context, to be passed on."""
    warnings: tuple[str, ...] = ()
    """For the completion: unknown fields, a record key that is not the request id, odd attributes."""
    unknown_fields: tuple[str, ...] = ()
    """Dotted paths of the first unknown fields, for those who refuse what others only warn of."""


class EncodedEvent(NamedTuple):
    """A record to be published, in the binary form of the CloudEvents binding."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


def decode_request(
    value: bytes | None, headers: Headers = (), key: bytes | None = None, *, max_bytes: int = REQUEST_BYTES_MAX
) -> Decoded:
    """Read a record of the requests topic.

    Raises `RequestRejected`, and nothing else, for whatever is not a request. The error has the request id where
    the value holds a usable one; the record's key is never taken for it, since keys only choose partitions.
    Values above `max_bytes` are not looked into.
    """
    if value is None:
        raise RequestRejected(ErrorCode.INVALID_REQUEST, "the record has no value")
    if len(value) > max_bytes:
        raise RequestRejected(
            ErrorCode.REQUEST_TOO_LARGE, f"the record's value has {len(value)} bytes, at most {max_bytes} are read"
        )
    return _decoded(unwrap(bytes(value), headers, EventType.REQUESTED, bytes_max=max_bytes), key)


def decode_document(document: dict[str, Any]) -> Decoded:
    """Read a request that is a JSON object already, and no envelope around one. Raise `RequestRejected`.

    Whoever decides by the object's members on whose behalf it was sent needs this: in an envelope the members that
    count stand elsewhere.
    """
    return _decoded(Unwrapped(Document(document, None, frozenset()), None), None)


def decode_completion(value: bytes | None, headers: Headers = ()) -> Completion:
    """Read a record of the completions topic. Raises `EventUnreadable` and nothing else."""
    return _decode(Completion, value, headers, EventType.COMPLETED)


def decode_progress(value: bytes | None, headers: Headers = ()) -> Progress:
    """Read a record of the progress topic. Raises `EventUnreadable` and nothing else."""
    return _decode(Progress, value, headers, EventType.PROGRESS)


def decode_cancellation(value: bytes | None, headers: Headers = ()) -> Cancellation:
    """Read a record of the cancellations topic. Raises `EventUnreadable` and nothing else."""
    return _decode(Cancellation, value, headers, EventType.CANCELLED)


def encode_request(
    request: GenerationRequest,
    *,
    event_id: str,
    time: datetime,
    source: str = CLIENT_SOURCE,
    traceparent: str | None = None,
) -> EncodedEvent:
    """A request as a record. Fields that were never set are left out; `time` must have a time zone."""
    value = request.model_dump_json(exclude_unset=True).encode()
    headers = wrap(event_type=EventType.REQUESTED, source=source, event_id=event_id, time=time, traceparent=traceparent)
    return EncodedEvent(request.request_id.encode(), value, headers)


def encode_completion(
    completion: Completion, *, source: str = WORKER_SOURCE, traceparent: str | None = None
) -> EncodedEvent:
    """A completion as a record. Its event id is made of the answered record's coordinates, so it is unique."""
    answered = completion.source
    headers = wrap(
        event_type=EventType.COMPLETED,
        source=source,
        event_id=f"{answered.topic}-{answered.partition}-{answered.offset}",
        time=completion.completed_at,
        traceparent=traceparent,
    )
    return EncodedEvent(completion.request_id.encode(), completion.model_dump_json().encode(), headers)


def encode_progress(progress: Progress, *, source: str = WORKER_SOURCE, traceparent: str | None = None) -> EncodedEvent:
    """A progress event as a record. Its event id says which state of which request it is."""
    headers = wrap(
        event_type=EventType.PROGRESS,
        source=source,
        event_id=f"{progress.tenant}/{progress.request_id}/{progress.stage}/{progress.steps_done}",
        time=progress.at,
        traceparent=traceparent,
    )
    return EncodedEvent(progress.request_id.encode(), progress.model_dump_json().encode(), headers)


def encode_cancellation(
    cancellation: Cancellation,
    *,
    event_id: str,
    time: datetime,
    source: str = CLIENT_SOURCE,
    traceparent: str | None = None,
) -> EncodedEvent:
    """A cancellation as a record; `time` must have a time zone."""
    headers = wrap(event_type=EventType.CANCELLED, source=source, event_id=event_id, time=time, traceparent=traceparent)
    return EncodedEvent(cancellation.request_id.encode(), cancellation.model_dump_json().encode(), headers)


def _decoded(event: Unwrapped, key: bytes | None) -> Decoded:
    """Return the request that an event is. Raise `RequestRejected`."""
    try:
        request, unknown = _request(event)
    except EventUnreadable as error:
        request_id, tenant = _identity(event.document)
        raise RequestRejected(
            ErrorCode.INVALID_REQUEST,
            error.message,
            request_id=request_id,
            tenant=tenant,
            event_id=event.event_id,
            requested_at=event.time,
            traceparent=event.traceparent,
        ) from error
    if unknown and (refusal := refusal_of(GenerationRequest, unknown)) is not None:
        raise RequestRejected(
            ErrorCode.UNSUPPORTED_FIELD,
            refusal,
            request_id=request.request_id,
            tenant=request.tenant,
            event_id=event.event_id,
            requested_at=event.time,
            traceparent=event.traceparent,
        )
    paths = [bounded(".".join(field.path), _PATH_CHARACTERS_MAX) for field in unknown[:UNKNOWN_FIELDS_SHOWN_MAX]]
    more = len(unknown) - len(paths)
    warnings = [*event.warnings, *(f"unknown field ignored: {path}" for path in paths)]
    if more:
        warnings.append(f"and {more} more unknown fields ignored")
    if key is not None and bytes(key) != request.request_id.encode():
        warnings.append("the record's key is not the request id: records of one id may be in different partitions")
    return Decoded(
        request,
        digest=request_digest(request),
        event_id=event.event_id,
        requested_at=event.time,
        traceparent=event.traceparent,
        warnings=tuple(warnings),
        unknown_fields=tuple(paths),
    )


def _decode(model: type[EventT], value: bytes | None, headers: Headers, event_type: EventType) -> EventT:
    if value is None:
        raise EventUnreadable("the record has no value")
    return _validated(model, unwrap(bytes(value), headers, event_type, bytes_max=REQUEST_BYTES_MAX))


def _request(event: Unwrapped) -> tuple[GenerationRequest, list[UnknownField]]:
    """Return the request in a record, and its unknown fields in the record's order. Raise `EventUnreadable`.

    A field that is null asks for nothing: clients generated from a union of types write the other types' fields so.
    """
    value = event.document.value
    unknown: list[UnknownField] = []
    if event.problem is None:
        try:
            return GenerationRequest.model_validate(value, extra="forbid"), unknown
        except ValidationError as error:
            found = error.errors(include_url=False, include_context=False)
        unknown = [UnknownField(_steps(one["loc"]), one["input"]) for one in found if one["type"] == "extra_forbidden"]
    request = _validated(GenerationRequest, event)
    places = {name: place for place, name in enumerate(value)}
    return request, sorted(
        (field for field in unknown if field.value is not None), key=lambda field: places.get(field.path[0], 0)
    )


def _validated(model: type[EventT], event: Unwrapped) -> EventT:
    """Return the event that a record holds, unknown fields passed over. Raise `EventUnreadable` with what is wrong."""
    if event.problem is not None:
        raise EventUnreadable(f"the record is not a {model.__name__}: {event.problem}")
    value = event.document.value
    try:
        return model.model_validate(value, extra="ignore")
    except ValidationError as error:
        members = value if isinstance(value, dict) else {}
        wrapper = None if {"request_id", "prompt"} <= members.keys() else wrapper_of(members)
        explained = _explain(error, members)
        raise EventUnreadable(explained if wrapper is None else f"{explained}; {wrapper}") from error


def _explain(error: ValidationError, members: dict[str, Any]) -> str:
    """The first errors with the paths of their fields, without the input: it may be long, or private."""
    found = error.errors(include_url=False, include_context=False)
    parts = []
    for item in found[:_ERRORS_SHOWN_MAX]:
        message = _message(item)
        path = _path(item["loc"])
        if item["type"] == "missing" and (other := spelt_otherwise(path, members)) is not None:
            message = f"{message}, and '{other}' stands there: it is spelt {path}"
        parts.append(f"{path}: {message}" if path else message)
    if len(found) > _ERRORS_SHOWN_MAX:
        parts.append(f"and {len(found) - _ERRORS_SHOWN_MAX} more")
    return "; ".join(parts)


def _message(item: ErrorDetails) -> str:
    """Return what is wrong with a field, with the kind of value that it has if it should be of another kind."""
    kind, given = item["type"], item["input"]
    message = said(item)
    if not kind.endswith("_type"):
        return message
    found = "a number" if type(given) in (int, float) else _KINDS.get(type(given))
    if kind == "int_type" and type(given) is float:
        found = "a fraction"
    return message if found is None else f"{message}, not {found}"


def _path(location: tuple[int | str, ...]) -> str:
    return bounded(".".join(_steps(location)), _PATH_CHARACTERS_MAX)


def _steps(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return where an error stands, without the names of a union's alternatives, which no requester knows."""
    return tuple(str(step) for step in location if step not in TAGS or location[0] == "labels")


def _identity(document: Document) -> tuple[str | None, str | None]:
    """(request id, tenant) where a document that may be no request says so unmistakably, else (None, None)."""
    value = document.value
    if not isinstance(value, dict) or document.repeated & {"request_id", "tenant"}:
        return None, None
    request_id, tenant = value.get("request_id"), value.get("tenant")
    if tenant is None:
        tenant = DEFAULT_TENANT
    if not is_identity(request_id):
        return None, None
    if not is_identity(tenant):
        return request_id, stand_in_tenant(_as_text(tenant))
    return request_id, tenant


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else type(value).__name__
