"""Completions, progress and cancellations come back from their records as they went in, and wrong ones are told."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from darkroom.schemas.errors import EventUnreadable
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.progress import Cancellation, Progress
from darkroom.schemas.publish import document
from darkroom.schemas.wire.codec import (
    EncodedEvent,
    decode_cancellation,
    decode_completion,
    decode_progress,
    encode_cancellation,
    encode_completion,
    encode_progress,
)

TIME = datetime(2027, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
COMPLETIONS = [Completion.model_validate_json(json.dumps(item)) for item in document("completion")["examples"]]
PROGRESS = Progress(request_id="r", stage="denoise", steps_done=3, steps_total=22, at=TIME)
CANCELLATION = Cancellation(request_id="r", tenant="studio", reason="no longer wanted")


def headers_of(event: EncodedEvent) -> dict[str, str]:
    return {name: value.decode() for name, value in event.headers}


@pytest.mark.parametrize("completion", COMPLETIONS, ids=lambda completion: completion.status)
def test_completions(completion: Completion) -> None:
    event = encode_completion(completion, traceparent=TRACE)
    assert decode_completion(event.value, event.headers) == completion
    assert event.key == completion.request_id.encode()
    source = completion.source
    headers = headers_of(event)
    assert headers["ce_id"] == f"{source.topic}-{source.partition}-{source.offset}"
    assert headers["ce_type"] == "darkroom.generation.completed.v1"
    assert headers["ce_source"] == "/darkroom/worker"
    assert headers["traceparent"] == TRACE
    assert set(json.loads(event.value)) == set(Completion.model_fields)


def test_progress() -> None:
    event = encode_progress(PROGRESS)
    assert decode_progress(event.value, event.headers) == PROGRESS
    assert event.key == b"r"
    assert headers_of(event)["ce_time"] == "2027-01-31T12:00:00.250000Z"
    later = encode_progress(PROGRESS.model_copy(update={"steps_done": 4}))
    assert headers_of(later)["ce_id"] != headers_of(event)["ce_id"]


def test_progress_does_not_run_past_its_end() -> None:
    with pytest.raises(ValueError, match="steps_done"):
        Progress(request_id="r", stage="denoise", steps_done=23, steps_total=22, at=TIME)


def test_cancellations() -> None:
    event = encode_cancellation(CANCELLATION, event_id="c-1", time=TIME, source="/shop")
    assert decode_cancellation(event.value, event.headers) == CANCELLATION
    assert (event.key, headers_of(event)["ce_id"], headers_of(event)["ce_source"]) == (b"r", "c-1", "/shop")
    assert decode_cancellation(b'{"request_id": "r"}') == Cancellation(request_id="r")


def test_events_without_headers_are_read() -> None:
    assert decode_completion(encode_completion(COMPLETIONS[0]).value) == COMPLETIONS[0]
    assert decode_progress(encode_progress(PROGRESS).value) == PROGRESS


def test_fields_of_a_later_release_are_passed_over() -> None:
    value = {**json.loads(encode_completion(COMPLETIONS[0]).value), "new": 1}
    assert decode_completion(json.dumps(value).encode()) == COMPLETIONS[0]


@pytest.mark.parametrize("decode", [decode_completion, decode_progress, decode_cancellation])
@pytest.mark.parametrize("value", [None, b"", b"{}", b"[]", b"\xff", b'{"request_id": "../r"}'], ids=str)
def test_what_cannot_be_read_is_told(decode: Any, value: bytes | None) -> None:
    with pytest.raises(EventUnreadable) as caught:
        decode(value)
    assert caught.value.message


def test_one_kind_is_not_taken_for_another() -> None:
    event = encode_cancellation(CANCELLATION, event_id="c-1", time=TIME)
    with pytest.raises(EventUnreadable, match="type"):
        decode_progress(event.value, event.headers)
