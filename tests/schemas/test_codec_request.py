"""Reading the requests topic: three forms of one request, what is warned of, and who is blamed for what is refused."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import EventType, stand_in_tenant
from darkroom.schemas.wire.codec import Decoded, decode_request, encode_request
from darkroom.schemas.wire.digests import request_digest

TYPE = EventType.REQUESTED.value
TIME = datetime(2027, 1, 31, 12, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OBJECT: dict[str, Any] = {"request_id": "job-1", "tenant": "studio", "prompt": "a dancer"}
VALUE = json.dumps(OBJECT).encode()
BINARY: list[tuple[str, bytes | None]] = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"event-1"),
    ("ce_type", TYPE.encode()),
    ("ce_source", b"/shop"),
    ("ce_time", b"2027-01-31T13:00:00+01:00"),
    ("content-type", b"application/json; charset=utf-8"),
    ("traceparent", TRACE.encode()),
]
STRUCTURED: list[tuple[str, bytes | None]] = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
ENVELOPE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "event-1",
    "type": TYPE,
    "source": "/shop",
    "time": "2027-01-31T12:00:00Z",
    "datacontenttype": "application/json",
    "traceparent": TRACE,
}


def binary(**changed: bytes | None) -> list[tuple[str, bytes | None]]:
    """The headers of binary mode with some replaced; None takes a header away."""
    headers: dict[str, bytes | None] = {**dict(BINARY), **changed}
    return [(name, value) for name, value in headers.items() if value is not None]


def structured(**members: Any) -> bytes:
    return json.dumps({**ENVELOPE, **members}).encode()


def rejected(value: bytes | None, headers: Any = (), **options: Any) -> RequestRejected:
    with pytest.raises(RequestRejected) as caught:
        decode_request(value, headers, **options)
    return caught.value


FULL = Decoded(
    request=GenerationRequest(**OBJECT),
    digest=request_digest(GenerationRequest(**OBJECT)),
    event_id="event-1",
    requested_at=TIME,
    traceparent=TRACE,
)


def test_plain_json_without_headers() -> None:
    assert decode_request(VALUE) == Decoded(FULL.request, FULL.digest)


def test_plain_json_with_foreign_headers_keeps_the_trace() -> None:
    decoded = decode_request(VALUE, [("team", b"\xff"), ("empty", None), ("traceparent", TRACE.encode())])
    assert decoded == Decoded(FULL.request, FULL.digest, traceparent=TRACE)


def test_binary_mode() -> None:
    assert decode_request(VALUE, BINARY, b"job-1") == FULL


@pytest.mark.parametrize("data", [{"data": OBJECT}, {"data_base64": base64.b64encode(VALUE).decode()}])
def test_structured_mode(data: dict[str, Any]) -> None:
    assert decode_request(structured(**data), STRUCTURED) == FULL


def test_what_the_encoder_writes_is_read() -> None:
    event = encode_request(FULL.request, event_id="event-1", time=TIME, source="/shop", traceparent=TRACE)
    assert event.key == b"job-1"
    assert json.loads(event.value) == OBJECT
    assert dict(event.headers)["ce_time"] == b"2027-01-31T12:00:00Z"
    assert decode_request(event.value, event.headers, event.key) == FULL


def test_a_byte_order_mark_is_no_fault() -> None:
    assert decode_request(b"\xef\xbb\xbf" + VALUE).request == FULL.request
    marked = base64.b64encode(b"\xef\xbb\xbf" + VALUE).decode()
    assert decode_request(structured(data_base64=marked), STRUCTURED) == FULL


def test_unknown_fields_are_warned_of_with_their_paths() -> None:
    pose = {"people": [[[0.5, 0.5]] * 18], "confidence": 1}
    value = json.dumps({**OBJECT, "colour": {"red": 1}, "output": {"dpi": 3}, "pose": pose}).encode()
    decoded = decode_request(value)
    assert decoded.unknown_fields == ("colour", "output.dpi", "pose.confidence")
    assert decoded.warnings == tuple(f"unknown field ignored: {path}" for path in decoded.unknown_fields)
    assert decoded.digest == decode_request(json.dumps({**OBJECT, "pose": {"people": pose["people"]}}).encode()).digest


def test_the_number_and_length_of_warnings_are_bounded() -> None:
    value = json.dumps({**OBJECT, **{f"f{n}" + "x" * 300: n for n in range(25)}}).encode()
    decoded = decode_request(value)
    assert len(decoded.unknown_fields) == 10
    assert len(decoded.warnings) == 11
    assert decoded.warnings[-1] == "and 15 more unknown fields ignored"
    assert max(map(len, decoded.warnings)) < 200


def test_a_key_that_is_not_the_request_id_is_warned_of() -> None:
    assert decode_request(VALUE, (), b"job-1").warnings == ()
    assert "key" in decode_request(VALUE, (), b"job-2").warnings[0]
    assert "key" in decode_request(VALUE, (), b"\xff").warnings[0]


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        ({"ce_id": None}, "no CloudEvents id"),
        ({"ce_id": b""}, "id is not"),
        ({"ce_id": b"x" * 257}, "id is not"),
        ({"ce_id": b"\xff"}, "no CloudEvents id"),
        ({"ce_source": None}, "no CloudEvents source"),
        ({"ce_time": b"yesterday"}, "time is not"),
        ({"ce_time": b"1800000000"}, "time is not"),
    ],
)
def test_odd_attributes_that_change_nothing_are_warned_of(changed: dict[str, bytes | None], warned: str) -> None:
    decoded = decode_request(VALUE, binary(**changed))
    assert decoded.request == FULL.request
    assert len(decoded.warnings) == 1
    assert warned in decoded.warnings[0]
    if "ce_id" in changed:
        assert decoded.event_id is None
    if "ce_time" in changed:
        assert decoded.requested_at is None


def test_a_trace_that_is_none_is_dropped() -> None:
    assert decode_request(VALUE, binary(traceparent=b"00-nonsense")).traceparent is None
    extension = binary(traceparent=None, ce_traceparent=TRACE.encode())
    assert decode_request(VALUE, extension).traceparent == TRACE


def test_the_last_of_several_headers_counts() -> None:
    assert decode_request(VALUE, [("ce_id", b"first"), *BINARY]).event_id == "event-1"


@pytest.mark.parametrize(
    "changed",
    [
        {"ce_specversion": None},
        {"ce_specversion": b"0.3"},
        {"ce_specversion": b"\xff"},
        {"ce_type": None},
        {"ce_type": b"darkroom.generation.requested.v2"},
        {"ce_type": EventType.CANCELLED.value.encode()},
        {"content-type": b"application/avro"},
        {"ce_datacontenttype": b"text/csv"},
        {"content-type": b"application/cloudevents-batch+json"},
        {"content-type": b"application/cloudevents+avro"},
    ],
    ids=str,
)
def test_attributes_that_change_the_meaning_are_refused_on_the_request_s_account(
    changed: dict[str, bytes | None],
) -> None:
    error = rejected(VALUE, binary(**changed))
    assert error.code is ErrorCode.INVALID_REQUEST
    assert (error.request_id, error.tenant) == ("job-1", "studio")
    assert "use " in error.message or "publish one event a record" in error.message


def test_a_refusal_keeps_what_its_completion_needs() -> None:
    error = rejected(json.dumps({**OBJECT, "steps": 0}).encode(), BINARY)
    assert (error.event_id, error.requested_at, error.traceparent) == ("event-1", TIME, TRACE)


@pytest.mark.parametrize(
    ("members", "known"),
    [
        ({}, False),
        ({"data": OBJECT, "data_base64": "e30="}, False),
        ({"data_base64": "%%%"}, False),
        ({"data_base64": 7}, False),
        ({"data_base64": base64.b64encode(b"{").decode()}, False),
        ({"data": OBJECT, "specversion": 1.0}, True),
        ({"data": OBJECT, "type": "other"}, True),
        ({"data": OBJECT, "datacontenttype": "application/xml"}, True),
        ({"data": {**OBJECT, "steps": float("nan")}}, True),
    ],
    ids=str,
)
def test_envelopes_that_are_refused(members: dict[str, Any], known: bool) -> None:
    error = rejected(structured(**members), STRUCTURED)
    assert error.code is ErrorCode.INVALID_REQUEST
    assert error.request_id == ("job-1" if known else None)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"null",
        b"[]",
        b"7",
        b'"job-1"',
        b"\xff\xfe",
        VALUE.decode().encode("utf-16"),
        VALUE[:-1],
        VALUE + b"x",
        b"{'request_id': 'job-1'}",
        b'{"prompt": "p"}',
        b'{"request_id": 7, "prompt": "p"}',
        b'{"request_id": "../x", "prompt": "p"}',
        b'{"request_id": "a", "request_id": "b", "prompt": "p"}',
        b'{"request_id": "a", "tenant": "x", "tenant": "y", "prompt": "p"}',
        b"[" * 100_000,
        b'{"request_id": "job-1", "x": ' + b"[" * 100_000,
        b'{"request_id": "job-1", "x": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda value: str(value)[:30],
)
def test_without_a_request_id_that_can_be_read_there_is_none(value: bytes | None) -> None:
    error = rejected(value, (), key=b"job-1")
    assert error.code is ErrorCode.INVALID_REQUEST
    assert (error.request_id, error.tenant) == (None, None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b'{"request_id": "a"}', "prompt: is missing"),
        (b'{"request_id": "a", "prompt": 7}', "prompt: "),
        (b'{"request_id": "a", "prompt": "p", "steps": NaN}', "NaN"),
        (b'{"request_id": "a", "prompt": "p", "x": -Infinity}', "-Infinity"),
        (b'{"request_id": "a", "prompt": "p", "guidance_scale": 1e999}', "guidance_scale: "),
        (b'{"request_id": "a", "prompt": "p", "prompt": "q"}', "'prompt' twice"),
        (b'{"request_id": "a", "prompt": "p", "output": {"quality": 1, "quality": 2}}', "'quality' twice"),
        (b'{"request_id": "a", "prompt": "\\ud800"}', "prompt: must be text without unpaired surrogates"),
        (b'{"request_id": "a", "prompt": null}', "prompt: must be text, not null"),
        (b'{"request_id": "a", "prompt": "p", "steps": "22"}', "steps: must be an integer, not text"),
        (b'{"request_id": "a", "prompt": "p", "steps": 7.5}', "steps: must be an integer, not a fraction"),
        (b'{"request_id": "a", "prompt": "p", "steps": true}', "integer, not true or false"),
        (b'{"request_id": "a", "prompt": "p", "output": []}', "output: must be an object, not an array"),
        (
            b'{"request_id": "a", "prompt": "p", "pose": {"people": {}}}',
            "people: must be an array, not an object",
        ),
        (b'{"request_id": "a", "prompt": "p", "labels": {"k": "\\udfff"}}', "labels.k: must be text without"),
        (b'{"request_id": "a", "prompt": "p", "pose": {"image": {"bucket": "abc", "key": "/k"}}}', "pose.image.key: "),
        (b'{"request_id": "a", "prompt": "p", "pose": {"people": [[[0.5, 3]]]}}', "pose.people.0.0.1: "),
        (b'{"request_id": "a", "prompt": "p", "pose": {}}', "pose: must be an object"),
    ],
    ids=lambda part: str(part)[:50],
)
def test_a_readable_request_id_gets_the_answer_with_the_field_named(value: bytes, said: str) -> None:
    error = rejected(value)
    assert (error.code, error.request_id, error.tenant) == (ErrorCode.INVALID_REQUEST, "a", "default")
    assert said in error.message


@pytest.mark.parametrize("tenant", ["../evil", "", "a b", "\ud800"])
def test_a_tenant_that_cannot_be_used_takes_nobody_else_s_request_id(tenant: str) -> None:
    error = rejected(json.dumps({**OBJECT, "tenant": tenant}).encode())
    assert error.request_id == "job-1"
    assert error.tenant == stand_in_tenant(tenant)


def test_a_tenant_of_another_type_does_not_either() -> None:
    error = rejected(json.dumps({**OBJECT, "tenant": 7}).encode())
    assert error.request_id == "job-1"
    assert error.tenant == stand_in_tenant("int")


def test_the_input_is_not_repeated() -> None:
    error = rejected(json.dumps({**OBJECT, "steps": "private" * 10_000, "preset": "private"}).encode())
    assert "private" not in error.message
    assert len(error.message) <= 500


def test_many_faults_are_counted() -> None:
    value = json.dumps({**OBJECT, "steps": 0, "width": 0, "height": 0, "count": 0, "priority": -1}).encode()
    assert rejected(value).message.endswith("; and 2 more")


def test_values_above_the_limit_are_not_looked_into() -> None:
    assert decode_request(VALUE, max_bytes=len(VALUE)).request == FULL.request
    error = rejected(VALUE, max_bytes=len(VALUE) - 1)
    assert (error.code, error.request_id) == (ErrorCode.REQUEST_TOO_LARGE, None)
    assert rejected(b" " * (1024 * 1024 + 1)).code is ErrorCode.REQUEST_TOO_LARGE
