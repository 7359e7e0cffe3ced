"""Totality: whatever a record holds, decoding gives an event or the documented error, with a usable identity or none.

This is what lets the worker promise one outcome per record: no record can make its decoder fail in another way.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from darkroom.schemas.errors import EventUnreadable, RequestRejected
from darkroom.schemas.names import is_identity
from darkroom.schemas.publish import document
from darkroom.schemas.wire.codec import (
    Decoded,
    decode_cancellation,
    decode_completion,
    decode_progress,
    decode_request,
    encode_request,
)
from tests.schemas.strategies import ANY_JSON, HEADERS, as_bytes, mutated_requests, request_objects

MANY = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
FEWER = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
REQUEST_SCHEMA = jsonschema.Draft202012Validator(document("request"))


def outcome(value: bytes | None, headers: Any = (), key: bytes | None = None) -> Decoded | RequestRejected:
    """What decoding gives; any other exception fails the test. Checks what both outcomes owe their readers."""
    result = attempt(value, headers, key)
    if isinstance(result, RequestRejected):
        assert (result.request_id is None) == (result.tenant is None)
        assert result.request_id is None or is_identity(result.request_id)
        assert result.tenant is None or is_identity(result.tenant)
        assert 1 <= len(result.message) <= 500
        result.message.encode()
    else:
        assert len(result.warnings) <= 20
        assert all(len(warning) <= 500 and warning.isprintable() for warning in result.warnings)
    return result


def attempt(value: bytes | None, headers: Any, key: bytes | None) -> Decoded | RequestRejected:
    try:
        return decode_request(value, headers, key)
    except RequestRejected as rejected:
        return rejected


@MANY
@given(st.binary(max_size=300) | st.none(), HEADERS, st.none() | st.binary(max_size=20))
@example(b"[" * 200_000, [], None)
@example(b'{"a":' * 50_000, [], None)
@example(b'{"request_id":"a","prompt":' + b"1" * 100_000 + b"}", [], None)
@example(b"\xef\xbb\xbf\xef\xbb\xbf{}", [], None)
@example(
    b'{"specversion":"1.0","data":' + b"[" * 900 + b"]" * 900 + b"}",
    [("content-type", b"application/cloudevents+json")],
    None,
)
def test_any_bytes(value: bytes | None, headers: list[tuple[str, bytes | None]], key: bytes | None) -> None:
    outcome(value, headers, key)


@MANY
@given(ANY_JSON, HEADERS)
def test_any_json(value: Any, headers: list[tuple[str, bytes | None]]) -> None:
    outcome(as_bytes(value), headers)


@MANY
@given(mutated_requests(), HEADERS)
def test_mutated_requests(value: dict[str, Any], headers: list[tuple[str, bytes | None]]) -> None:
    result = outcome(as_bytes(value), headers)
    if is_identity(value.get("request_id")) and not any(name.lower() == "content-type" for name, _ in headers):
        identity = result.request_id if isinstance(result, RequestRejected) else result.request.request_id
        assert identity == value["request_id"]


@MANY
@given(st.data(), request_objects())
def test_damaged_bytes(data: st.DataObject, value: dict[str, Any]) -> None:
    damaged = bytearray(as_bytes(value))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        damaged = damaged or bytearray(b" ")
    outcome(bytes(damaged))


@MANY
@given(
    st.dictionaries(
        st.sampled_from(["specversion", "id", "type", "source", "time", "data", "data_base64", "traceparent"]),
        st.sampled_from(["1.0", "darkroom.generation.requested.v1", "e30="]) | ANY_JSON | mutated_requests(),
    )
)
def test_any_envelope(envelope: dict[str, Any]) -> None:
    outcome(as_bytes(envelope), [("content-type", b"application/cloudevents+json")])


@FEWER
@given(request_objects())
def test_every_valid_request_is_read_and_survives_encoding(value: dict[str, Any]) -> None:
    decoded = outcome(as_bytes(value))
    assert isinstance(decoded, Decoded)
    assert decoded.warnings == ()
    event = encode_request(decoded.request, event_id="e", time=datetime(2027, 1, 31, tzinfo=UTC))
    again = outcome(event.value, event.headers, event.key)
    assert isinstance(again, Decoded)
    assert (again.request, again.digest, again.warnings) == (decoded.request, decoded.digest, ())


@FEWER
@given(mutated_requests())
def test_the_published_schema_takes_all_that_the_codec_takes(value: dict[str, Any]) -> None:
    if isinstance(outcome(as_bytes(value)), Decoded):
        REQUEST_SCHEMA.validate(json.loads(as_bytes(value)))


@FEWER
@given(request_objects())
def test_the_published_schema_takes_valid_requests(value: dict[str, Any]) -> None:
    REQUEST_SCHEMA.validate(value)


@MANY
@pytest.mark.parametrize("decode", [decode_completion, decode_progress, decode_cancellation])
@given(value=st.none() | st.binary(max_size=200) | ANY_JSON.map(as_bytes), headers=HEADERS)
def test_the_other_events_are_read_as_totally(decode: Any, value: bytes | None, headers: Any) -> None:
    try:
        decode(value, headers)
        message = "read"
    except EventUnreadable as error:
        message = error.message
    assert 1 <= len(message) <= 500
