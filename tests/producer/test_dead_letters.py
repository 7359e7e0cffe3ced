"""Proves that a dead letter is the record that it was, says why, and always fits its topic."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.reader import TopicReader
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.outcomes.dead_letters import (
    DeadLetter,
    LetterUnreadable,
    Original,
    Reason,
    dead_letter,
    object_key,
    origin,
    read_stored,
    repeated,
    replayed,
    stored_place,
)
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.names import DeadLetterHeader, ReplayHeader
from tests.producer.examples import source

if TYPE_CHECKING:
    from darkroom.schemas.settings import Settings

REASON = Reason(ErrorCode.INVALID_REQUEST, "the record has no value", 0, "worker-0")
LIMIT = 65_536
NAMES = st.text(max_size=50) | st.binary(max_size=50).map(lambda name: name.decode("utf-8", "surrogateescape"))


def letter_of(**changes: Any) -> DeadLetter:
    original: dict[str, Any] = {
        "source": source(17, 3),
        "key": b"key",
        "value": b"\xffnot JSON",
        "headers": (("ce_id", b"1"), ("traceparent", b"00-x")),
    }
    return dead_letter(
        Original(**original | changes), REASON, request_id=None, bucket="darkroom", record_bytes_max=LIMIT
    )


def test_it_repeats_the_record_and_says_why() -> None:
    letter = letter_of()
    assert letter.value == b"\xffnot JSON"
    assert letter.key == b"generation.requests-3-17"
    assert letter.stored is None
    assert letter.headers[:2] == [("ce_id", b"1"), ("traceparent", b"00-x")]
    assert dict(letter.headers[2:]) == {
        DeadLetterHeader.TOPIC: b"generation.requests",
        DeadLetterHeader.PARTITION: b"3",
        DeadLetterHeader.OFFSET: b"17",
        DeadLetterHeader.ERROR_CODE: b"invalid_request",
        DeadLetterHeader.ERROR_MESSAGE: b"the record has no value",
        DeadLetterHeader.ATTEMPTS: b"0",
        DeadLetterHeader.WORKER: b"worker-0",
        DeadLetterHeader.KEY: b"key",
    }


def test_one_with_a_request_id_is_keyed_by_it() -> None:
    original = Original(source(), None, b"{}", ())
    reason = Reason(ErrorCode.WORKER_CRASH, "it killed two workers", 2, "worker-0")
    letter = dead_letter(original, reason, request_id="hello-1", bucket="darkroom", record_bytes_max=LIMIT)
    assert letter.key == b"hello-1"
    found = origin(letter.headers)
    assert found is not None
    assert (found.source, found.code) == (source(), "worker_crash")


def test_what_is_null_in_the_record_is_null_in_its_letter() -> None:
    letter = letter_of(key=None, value=None, headers=(("odd", None),))
    assert letter.value is None
    assert letter.headers[0] == ("odd", None)


def test_a_header_whose_name_is_not_utf8_is_listed_and_never_written() -> None:
    headers = (("plain", b"1"), (b"caf\xe9".decode("utf-8", "surrogateescape"), None), ("plain", b"2"))
    letter = letter_of(headers=headers)
    assert [one for one in letter.headers if one[0] == "plain"] == [headers[0], headers[2]]
    for name, _ in letter.headers:
        name.encode()  # a reader on aiokafka gets past it
    assert json.loads(dict(letter.headers)[DeadLetterHeader.HEADERS] or b"") == [
        ["cGxhaW4=", "MQ=="],
        ["Y2Fm6Q==", None],
        ["cGxhaW4=", "Mg=="],
    ]
    for listed in (b"[1]", b"nonsense", b'[["!", null]]'):
        with pytest.raises(LetterUnreadable, match="does not list"):
            repeated(letter.key, letter.value, [*letter.headers, (DeadLetterHeader.HEADERS.value, listed)])


def test_one_that_is_sent_again_and_dies_again_tells_of_its_last_death() -> None:
    first = letter_of()
    second = letter_of(source=source(99, 5), headers=tuple(first.headers))
    assert [name for name, _ in second.headers].count(DeadLetterHeader.OFFSET) == 1
    found = origin(second.headers)
    assert found is not None
    assert found.source == source(99, 5)


@pytest.mark.parametrize(
    "changes",
    [{"value": b"x" * LIMIT}, {"headers": (("huge", b"x" * LIMIT),)}, {"headers": (("many", b""),) * 10_000}],
    ids=["a large value", "a large header", "many headers"],
)
def test_one_that_is_too_large_is_stored_whole_and_says_where(changes: dict[str, Any]) -> None:
    letter = letter_of(**changes)
    assert letter.stored is not None
    assert letter.stored.key == object_key(source(17, 3)) == ".dead-letters/generation.requests/3/17.json"
    place = json.loads(letter.value)
    assert (place["bucket"], place["key"], place["size_bytes"]) == (
        "darkroom",
        letter.stored.key,
        len(letter.stored.content),
    )
    assert place["sha256"] == hashlib.sha256(letter.stored.content).hexdigest()
    assert dict(letter.headers)[DeadLetterHeader.OBJECT] == f"darkroom/{letter.stored.key}".encode()
    whole = json.loads(letter.stored.content)
    expected = {"value": b"\xffnot JSON", "headers": (("ce_id", b"1"), ("traceparent", b"00-x"))} | changes
    assert base64.b64decode(whole["value"]) == expected["value"]
    assert [(name, base64.b64decode(value)) for name, value in whole["headers"]] == list(expected["headers"])  # type: ignore[call-overload]
    assert (whole["topic"], whole["partition"], whole["offset"]) == ("generation.requests", 3, 17)
    found = origin(letter.headers)
    assert found is not None
    assert found.source == source(17, 3)


@pytest.mark.parametrize(
    "change",
    [
        {DeadLetterHeader.TOPIC: None},
        {DeadLetterHeader.PARTITION: b"x"},
        {DeadLetterHeader.OFFSET: b"-1"},
        {DeadLetterHeader.TOPIC: b"\xff"},
        {DeadLetterHeader.ERROR_CODE: b"\xff"},
    ],
)
def test_headers_that_name_no_record_are_nobodys(change: dict[str, bytes | None]) -> None:
    headers = list((dict(letter_of().headers) | change).items())
    assert origin(headers) is None
    assert origin([]) is None


@settings(max_examples=60, deadline=None)
@given(
    value=st.none() | st.integers(0, 2 * LIMIT).map(bytes),
    headers=st.lists(st.tuples(NAMES, st.none() | st.integers(0, LIMIT).map(bytes)), max_size=8),
    key=st.none() | st.binary(max_size=300),
)
def test_whatever_it_was_it_fits_and_nothing_is_lost(
    value: bytes | None, headers: list[tuple[str, bytes | None]], key: bytes | None
) -> None:
    letter = letter_of(value=value, headers=tuple(headers), key=key)
    size = len(letter.key) + len(letter.value or b"")
    size += sum(len(name.encode()) + len(text or b"") for name, text in letter.headers)
    assert size < LIMIT
    if letter.stored is None:
        back = repeated(letter.key, letter.value, letter.headers)
    else:
        back = read_stored(letter.stored.content, sha256=stored_place(letter.value)[2])
    assert (back.source, back.key, back.value) == (source(17, 3), key, value)
    assert list(back.headers) == headers


def test_a_letter_without_its_record_s_key_gives_its_request_id() -> None:
    without = [(name, content) for name, content in letter_of().headers if name != DeadLetterHeader.KEY]
    assert repeated(b"hello-1", b"x", without).key == b"hello-1"
    assert repeated(b"generation.requests-3-17", b"x", without).key is None


def test_what_names_no_record_and_what_was_changed_gives_none() -> None:
    stored = letter_of(value=b"x" * LIMIT).stored
    assert stored is not None
    digest = hashlib.sha256(stored.content).hexdigest()
    assert read_stored(stored.content, sha256=digest).source == source(17, 3)
    with pytest.raises(LetterUnreadable, match="digest differs"):
        read_stored(stored.content + b" ", sha256=digest)
    for rubbish in (
        b"[]",
        b"not JSON",
        b'{"topic":"t","partition":0,"offset":-1,"headers":[],"key":null,"value":null}',
    ):
        with pytest.raises(LetterUnreadable):
            read_stored(rubbish, sha256=hashlib.sha256(rubbish).hexdigest())
    for value in (None, b"", b"{}", b'{"bucket":1,"key":"k","sha256":"s"}'):
        with pytest.raises(LetterUnreadable):
            stored_place(value)
    with pytest.raises(LetterUnreadable):
        repeated(b"k", b"v", [])


def test_the_note_of_a_replay_is_no_letter_and_a_replayed_record_s_letter_is_no_note() -> None:
    mark = (ReplayHeader.OF.value, b"generation.requests-3-16")
    assert replayed([mark]) == "generation.requests-3-16"
    assert replayed(letter_of(headers=(mark,)).headers) is None
    assert origin([mark]) is None


@pytest.mark.stack
async def test_kafka_takes_the_largest_one_that_is_not_stored(make_settings: Any) -> None:
    deployment: Settings = make_settings(topics__max_message_bytes=LIMIT, limits__request_bytes_max=1024)
    await ensure_topics(deployment)
    low, high = 0, LIMIT
    while high - low > 1:  # the largest value with which the record is repeated
        middle = (low + high) // 2
        low, high = (middle, high) if letter_of(value=bytes(middle)).stored is None else (low, middle)
    letter = letter_of(value=bytes(low))
    topic = deployment.topics.dead_letters
    producer = AIOKafkaProducer(**kafka_arguments(deployment.kafka), max_request_size=LIMIT)
    await producer.start()
    try:
        await producer.send_and_wait(topic, letter.value, key=letter.key, headers=letter.headers, partition=0)
    finally:
        await producer.stop()
    async with TopicReader(deployment.kafka, (topic,)) as reader:
        reader.start_at({TopicPartition(topic, 0): 0})
        (record,) = await reader.read(10)
    assert record.value == bytes(low)
    assert low > LIMIT - 2048
