"""Proves how people's files become requests: which line and which field is wrong."""

from __future__ import annotations

import io

import pytest

from darkroom.producer.client.request_files import Line, RequestUnreadable, lines, new_request_id, request_of
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import is_identity
from darkroom.schemas.wire.digests import request_digest

BYTES_MAX = 1024 * 1024


def read(text: str, bytes_max: int = BYTES_MAX) -> list[Line]:
    return list(lines("file.jsonl", io.BytesIO(text.encode()), bytes_max=bytes_max))


def test_each_line_is_a_request() -> None:
    found = read('{"request_id":"a","prompt":"one"}\n\n  \n{"request_id":"b","prompt":"two","steps":5}')
    assert [line.place for line in found] == ["file.jsonl:1", "file.jsonl:4"]
    assert [line.request for line in found] == [
        GenerationRequest(request_id="a", prompt="one"),
        GenerationRequest(request_id="b", prompt="two", steps=5),
    ]


def test_a_line_without_an_id_gets_one_of_its_own() -> None:
    first, second = read('{"prompt":"one"}\n{"prompt":"one"}')
    assert first.request is not None
    assert second.request is not None
    assert first.request.request_id != second.request.request_id
    assert is_identity(first.request.request_id)


def test_the_dialects_of_json_that_workers_read_are_read() -> None:
    theirs = '{"request_id": "a", "prompt": "p", "steps": 7.0, "output": null, "deadline": "2127-01-31T12:00+0000"}'
    ours = '{"request_id": "a", "prompt": "p", "steps": 7, "deadline": "2127-01-31T12:00:00Z"}'
    first, second = read(f"{theirs}\n{ours}\n")
    assert first.request is not None
    assert second.request is not None
    assert request_digest(first.request) == request_digest(second.request)
    assert (first.request, first.unknown_fields) == (second.request, ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt":"one","steps":500}', "steps"),
        ('{"prompt":"one","pose":{"people":[]}}', "pose"),
        ('{"steps":5}', "prompt"),
        ('{"request_id":"no/slash","prompt":"one"}', "request_id"),
        ("not JSON", "JSON"),
        ('["prompt"]', "object"),
        ('{"prompt":"one","prompt":"two"}', "prompt"),
        ("\udcff", "UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(text: str, said: str) -> None:
    content = b"\n" + text.encode("utf-8", "surrogateescape")
    (line,) = lines("file.jsonl", io.BytesIO(content), bytes_max=BYTES_MAX)
    assert line.request is None
    assert line.place == "file.jsonl:2"
    assert line.problem is not None
    assert said in line.problem


def test_unknown_fields_are_told() -> None:
    (line,) = read('{"prompt":"one","colour":"red"}')
    assert line.request is not None
    assert line.unknown_fields == ("colour",)


def test_a_line_is_bounded_and_the_next_is_read_from_its_beginning() -> None:
    long = '{"prompt":"' + "x" * 5000 + '"}'
    found = read(f'{long}\n{{"prompt":"one"}}\n{long}', bytes_max=1000)
    assert [line.place for line in found] == ["file.jsonl:1", "file.jsonl:2", "file.jsonl:3"]
    assert [line.problem is None for line in found] == [False, True, False]
    assert found[0].problem is not None
    assert "1000 bytes" in found[0].problem


def test_a_line_of_exactly_the_bound_is_read() -> None:
    text = '{"request_id":"a","prompt":"one"}'
    assert read(text + "\n", bytes_max=len(text))[0].request is not None
    assert read(text, bytes_max=len(text))[0].request is not None


def test_fields_that_are_not_given_are_left_out() -> None:
    request = request_of({"request_id": "a", "prompt": "one", "steps": None}, bytes_max=BYTES_MAX)
    assert request.model_fields_set == {"request_id", "prompt"}
    with pytest.raises(RequestUnreadable, match="steps"):
        request_of({"request_id": "a", "prompt": "one", "steps": 0}, bytes_max=BYTES_MAX)


def test_new_ids_are_ids_and_differ() -> None:
    made = {new_request_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(map(is_identity, made))
