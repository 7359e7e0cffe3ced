"""Proves that the consumer reads what aiokafka's cannot, that what nobody can read is passed over and told, and that
the inside of aiokafka on which this rests has not moved.
"""

from __future__ import annotations

import ast
import gzip
import inspect
from pathlib import Path
from typing import Any

import cramjam
import pytest
from aiokafka import TopicPartition
from aiokafka.codec import lz4_encode, snappy_encode, zstd_encode
from aiokafka.consumer import fetcher
from aiokafka.consumer.consumer import AIOKafkaConsumer
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.producer.kafka import record_compression
from darkroom.producer.kafka.record_batches import Batches, Doubted, SingleRecordBatch, UnreadableBatch
from tests.strangers.raw_records import Raw, batch, body, field, varint

PLACE = TopicPartition("requests", 3)
GOOD = Raw(b"key", b"value", [(b"name", b"content")], timestamp_ms=1000)
ODD = Raw(b"odd", b"value", [(b"caf\xe9", None)], timestamp_ms=1001)
ROOT = Path(__file__).parents[2]


def read(content: bytes, *, position: int = 0, doubted: Doubted | None = None) -> tuple[list[Any], int]:
    """What aiokafka's own loop gives of a fetch, and the position that it goes on from."""
    records = PartitionRecords(
        PLACE, Batches(doubted or Doubted(), content), [], position, None, None, check_crcs=True, isolation_level=1
    )
    return list(records), records.next_fetch_offset


def test_the_inside_of_aiokafka_has_not_moved() -> None:
    code = fetcher.Fetcher._proc_fetch_request.__code__
    assert "MemoryRecords" in code.co_names, "the fetcher does not take a fetch apart in this method any more"
    assert fetcher.MemoryRecords is MemoryRecords
    assert "self._fetcher = Fetcher(" in inspect.getsource(AIOKafkaConsumer.start)
    asked = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(PartitionRecords)))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "next_batch"
    }
    assert asked == {
        "base_offset", "is_control_batch", "is_transactional", "next_offset", "producer_id", "validate_crc",
    }  # fmt: skip


def test_nobody_reads_with_another_consumer() -> None:
    for folder in ("producer", "consumer"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "consuming.py":
                assert "AIOKafkaConsumer(" not in file.read_text(), f"{file} must use RecordConsumer"


def test_a_name_that_is_not_utf8_keeps_its_bytes_and_costs_nobody_else_anything() -> None:
    records, position = read(batch([GOOD, ODD, GOOD]) + batch([GOOD], base=3))
    assert [one.offset for one in records] == [0, 1, 2, 3]
    assert position == 4
    ((name, value),) = records[1].headers
    assert (name.encode("utf-8", "surrogateescape"), value) == (b"caf\xe9", None)
    assert records[0].headers == records[2].headers == (("name", b"content"),)
    assert [one.timestamp for one in records[:3]] == [1000, 1001, 1000]


def test_attributes_are_one_byte() -> None:
    # aiokafka takes 0xFF for the beginning of a longer number: it gives another record at another offset.
    strange = Raw(b"k", b"v", attributes=0xFF, timestamp_ms=1000)
    records, position = read(batch([strange, GOOD]))
    assert [(one.offset, one.key, one.value) for one in records] == [(0, b"k", b"v"), (1, b"key", b"value")]
    assert position == 2


@pytest.mark.parametrize(
    ("codec", "pack"),
    [
        (1, gzip.compress),
        (1, lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:])),
        (1, lambda content: gzip.compress(content) + b"what Java ignores"),
        (2, snappy_encode),
        (2, lambda content: snappy_encode(content, xerial_compatible=False)),
        (3, lz4_encode),
        (4, zstd_encode),
        (4, lambda content: zstd_encode(content[:9]) + zstd_encode(content[9:])),
    ],
    ids=["gzip", "gzip of two members", "gzip and more", "snappy", "raw snappy", "lz4", "zstd", "zstd of two frames"],
)
def test_whatever_it_is_packed_with(codec: int, pack: Any) -> None:
    many = [GOOD, ODD] * 600
    records, position = read(batch(many, codec=codec, packed=pack(body(many, 1000))))
    assert [one.key for one in records] == [b"key", b"odd"] * 600
    assert position == 1200


BROKEN = {
    "an unknown compression": batch([GOOD, GOOD], codec=5),
    "gzip that is none": batch([GOOD, GOOD], codec=1, packed=b"none"),
    "gzip that is cut off": batch([GOOD, GOOD], codec=1, packed=gzip.compress(b"x" * 99)[:-9]),
    "snappy that is none": batch([GOOD, GOOD], codec=2, packed=b"none"),
    "snappy blocks cut off": batch([GOOD, GOOD], codec=2, packed=snappy_encode(b"x" * 99)[:-3]),
    "lz4 that is none": batch([GOOD, GOOD], codec=3, packed=b"none"),
    "zstd that is none": batch([GOOD, GOOD], codec=4, packed=b"none"),
    "numbers that do not end": batch([GOOD, GOOD], packed=b"\xff" * 40),
    "fields beyond the record": batch([GOOD, GOOD], packed=varint(4) + b"\0\0\0" + varint(60)),
    "headers that are not there": batch(
        [GOOD, GOOD], packed=varint(9) + b"\0\0\0" + field(b"k") + field(b"v") + varint(5) + b"\0"
    ),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_nobody_can_read_is_one_record_that_says_so(content: bytes) -> None:
    records, position = read(batch([GOOD]) + rebased(content, 1) + batch([GOOD], base=3))
    assert [one.offset for one in records] == [0, 1, 3]
    assert position == 4
    value = records[1].value
    assert isinstance(value, UnreadableBatch)
    assert (value.first_offset, value.last_offset) == (1, 2)
    assert value == rebased(content, 1)
    assert value.reason
    assert "\n" not in value.reason


def test_records_before_the_broken_one_are_given() -> None:
    whole = body([GOOD, ODD, GOOD], 1000)
    records, position = read(batch([GOOD, ODD, GOOD], packed=whole[:-5]))
    assert [one.offset for one in records] == [0, 1, 2]
    assert isinstance(records[2].value, UnreadableBatch)
    assert (records[2].value.first_offset, records[2].value.last_offset) == (2, 2)
    assert position == 3


def test_a_wrong_checksum_is_fetched_once_more_before_it_is_believed() -> None:
    doubted = Doubted()
    spoilt = bytearray(batch([GOOD, GOOD], base=1))
    spoilt[-1] ^= 1
    content = batch([GOOD]) + bytes(spoilt) + batch([GOOD], base=3)
    records, position = read(content, doubted=doubted)
    assert ([one.offset for one in records], position) == ([0], 1)
    again = content[len(batch([GOOD])) :]
    assert read(batch([GOOD, GOOD], base=1), position=1, doubted=doubted)[1] == 3  # it was the wire's fault
    records, position = read(again, position=1, doubted=doubted)
    assert [one.offset for one in records] == [1, 3]
    assert "checksum" in records[0].value.reason
    assert position == 4


def test_a_doubted_first_batch_is_not_skipped() -> None:
    spoilt = bytearray(batch([GOOD]))
    spoilt[-1] ^= 1
    batches = Batches(Doubted(), bytes(spoilt))
    assert not batches.has_next()
    assert batches.size_in_bytes() == 0, "aiokafka goes an offset further where there are bytes and no batch"


def test_what_is_packed_beyond_measure_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_compression, "UNPACKED_BYTES_MAX", 64 * 1024)
    monkeypatch.setattr(record_compression, "_ROOM_BYTES", (1024, 64 * 1024))
    large = bytes(1024 * 1024)
    for codec, packed in (
        (1, gzip.compress(large)),
        (2, snappy_encode(large)),
        (2, bytes(cramjam.snappy.compress_raw(large))),
        (3, lz4_encode(large)),
        (4, zstd_encode(large)),
    ):
        records, position = read(batch([GOOD], codec=codec, packed=packed))
        assert "more than" in records[0].value.reason, codec
        assert position == 1


def test_the_fetch_s_last_batch_may_be_cut_off() -> None:
    records, position = read(batch([GOOD]) + batch([GOOD], base=1)[:-1])
    assert ([one.offset for one in records], position) == ([0], 1)


names = st.binary(max_size=8)
contents = st.none() | st.binary(max_size=20)
any_records = st.lists(
    st.builds(
        Raw,
        contents,
        contents,
        st.lists(st.tuples(names, contents), max_size=4),
        st.integers(0, 2**41),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(any_records)
def test_every_record_comes_as_it_was_written(written: list[Raw]) -> None:
    records, _ = read(batch(written))
    assert [as_raw(one) for one in records] == [
        (one.key, one.value, [tuple(header) for header in one.headers]) for one in written
    ]
    for one in records:
        for compressed in (False, True):
            again = SingleRecordBatch(
                key=one.key, value=one.value, headers=one.headers, transactional=False, compressed=compressed
            )
            (back,), _ = read(bytes(again._build()))
            assert as_raw(back) == as_raw(one)


@settings(max_examples=300, deadline=None)
@given(any_records, st.data())
def test_no_bytes_make_it_raise(written: list[Raw], data: st.DataObject) -> None:
    content = bytearray(body(written, 0))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    records, position = read(batch(written, packed=bytes(content)))
    assert position == len(written)
    offsets = [one.offset for one in records]
    assert offsets == sorted(set(offsets))
    told = [one.value for one in records if isinstance(one.value, UnreadableBatch)]
    if told:
        assert offsets == list(range(told[0].first_offset + 1))
        assert told[0].last_offset == len(written) - 1
    else:
        assert offsets == list(range(len(written)))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_no_fetch_makes_it_raise(content: bytes) -> None:
    doubted = Doubted()
    for _ in range(2):
        read(content, doubted=doubted)


def as_raw(record: Any) -> tuple[bytes | None, bytes | None, list[tuple[bytes, bytes | None]]]:
    return (
        record.key,
        record.value,
        [(name.encode("utf-8", "surrogateescape"), value) for name, value in record.headers],
    )


def rebased(content: bytes, base: int) -> bytes:
    return base.to_bytes(8, "big") + content[8:]
