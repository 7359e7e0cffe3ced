"""Kafka's record batches, read and written where aiokafka does neither.

aiokafka decodes header names as strict UTF-8, while Kafka takes any bytes for a name (clients in C, Go and Rust write
them), and it reads a record's attributes as a varint, while they are one byte. It raises out of `getmany` for such a
record and for every batch that it cannot parse. That exception also throws away what the same call had taken from
other partitions, whose positions have moved by then: going on after it loses records.

So `Batches` takes the place of aiokafka's `MemoryRecords`, and never raises. aiokafka's own compiled parser still reads
every batch, unpacked by `record_compression`; where it gives up or gives another offset than the next, the rest of that
batch is read here, as `DefaultRecord.readFrom` of Apache Kafka reads it. What cannot be read here either becomes one
record whose value is an `UnreadableBatch`: its bytes, its offsets and the reason.

Format: KIP-98, "Message Format" version 2, and `clients/.../common/record/DefaultRecordBatch.java` of Apache Kafka 4.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch
from aiokafka.record.util import calc_crc32c

from darkroom.producer.kafka.record_compression import Unpackable, unpacked

Headers = Sequence[tuple[str, bytes | None]]
"""A record's headers. A name whose bytes are not UTF-8 holds them as lone surrogates (`surrogateescape`)."""

_HEAD: Final = struct.Struct(">qiibIhiqqqhii")
"""Base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and greatest time stamp, producer
id and epoch, base sequence, number of records."""
_LOG_OVERHEAD: Final = 12
"""Base offset and length, which every format begins with."""
_MAGIC_AT: Final = 16
_CRC_AT: Final = 17
_ATTRIBUTES_AT: Final = 21
"""Where the bytes begin that the CRC is of."""
_CODEC_BITS: Final = 0x07
_APPEND_TIME_BIT: Final = 0x08
_TRANSACTIONAL_BIT: Final = 0x10
_CONTROL_BIT: Final = 0x20
_GZIP: Final = 1
_VARINT_BYTES_MAX: Final = 10
_MESSAGE_CHARACTERS_MAX: Final = 120
DOUBTED_MAX: Final = 1_000
"""Batches of a consumer that are remembered because their checksum was wrong once: 100 bytes each."""


class UnreadableBatch(bytes):
    """The value of the one record that stands for a batch, or for the rest of it, that cannot be read: its bytes."""

    first_offset: int
    last_offset: int
    reason: str

    @classmethod
    def of(cls, content: bytes, first_offset: int, last_offset: int, reason: str) -> UnreadableBatch:
        """Return the bytes with the offsets that they have in the partition and the reason."""
        made = cls(content)
        made.first_offset, made.last_offset, made.reason = first_offset, last_offset, reason
        return made


class ReadRecord(NamedTuple):
    """A record with the attributes that aiokafka's own has."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    checksum: None = None


class Doubted:
    """Remembers which batches of a consumer had a wrong checksum, to tell the disk's fault from the wire's."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def seen_before(self, content: memoryview) -> bool:
        """Return whether these very bytes were asked about before, and remember them."""
        digest = hashlib.sha256(content).digest()
        if digest in self._seen:
            return True
        self._seen[digest] = None
        if len(self._seen) > DOUBTED_MAX:
            self._seen.popitem(last=False)
        return False


class Batches:
    """Stands in for `aiokafka.record.memory_records.MemoryRecords`: the batches of one partition in one fetch.

    A batch with a wrong checksum ends the fetch before it, so that it is fetched again; if the same bytes come a second
    time, they are what the broker has.
    """

    def __init__(self, doubted: Doubted, content: bytes) -> None:
        self._doubted = doubted
        self._content = memoryview(content)
        self._at = 0
        self._is_first = True
        self._held_back = False
        self._next: Batch | None = None

    def size_in_bytes(self) -> int:
        """Return the fetch's size; 0 where a doubted batch is to be fetched again, and aiokafka must not skip it."""
        return 0 if self._held_back else len(self._content)

    def has_next(self) -> bool:
        """Return whether there is another batch to be read now."""
        if self._next is None:
            self._next = self._take()
        return self._next is not None

    def next_batch(self) -> Batch | None:
        """Return the next batch."""
        batch = self._next if self._next is not None else self._take()
        self._next = None
        return batch

    def _take(self) -> Batch | None:
        at, size = self._at, len(self._content)
        if self._held_back or size - at < _LOG_OVERHEAD:
            return None
        base, length = struct.unpack_from(">qi", self._content, at)
        end = at + _LOG_OVERHEAD + length
        if not at + _LOG_OVERHEAD <= end <= size:
            if not self._is_first:
                return None  # cut off by the fetch's limit
            # A broker gives the first batch whole, however large it is (KIP-74).
            self._at = size
            return Batch.unreadable(self._content[at:], base, "it is cut off", following=None)
        content = self._content[at:end]
        following = struct.unpack_from(">q", self._content, end)[0] if size - end >= _LOG_OVERHEAD else None
        batch = Batch.of(content, base, following)
        if batch.is_corrupt and not self._doubted.seen_before(content):
            self._held_back = True
            return None
        self._at, self._is_first = end, False
        return batch


class Batch:
    """One batch with what aiokafka's `PartitionRecords` asks of it. Iterating never raises."""

    __slots__ = (
        "_codec",
        "_content",
        "_flaw",
        "_inner",
        "_is_dense",
        "base_offset",
        "is_control_batch",
        "is_corrupt",
        "is_transactional",
        "next_offset",
        "producer_id",
    )

    def __init__(self, content: memoryview, inner: Any, base_offset: int) -> None:
        self._content = content
        self._inner = inner
        self._flaw: str | None = None
        self._codec = 0
        self._is_dense = False
        """Whether no offset is missing in it: compaction takes records out, and of an old version nobody can say."""
        self.is_corrupt = False
        """Whether its checksum is wrong."""
        self.base_offset = base_offset
        self.next_offset = base_offset + 1
        self.is_control_batch = False
        self.is_transactional = False
        self.producer_id: int | None = None

    @classmethod
    def of(cls, content: memoryview, base_offset: int, following: int | None) -> Batch:
        """Return the batch in these bytes. `following` is the next one's base offset, where there is one."""
        magic = content[_MAGIC_AT] if len(content) > _MAGIC_AT else -1
        if magic > 2 or len(content) < (_HEAD.size if magic == 2 else _MAGIC_AT + 10):
            return cls.unreadable(content, base_offset, "it is no batch of a version that is known", following)
        try:
            inner = DefaultRecordBatch(content) if magic == 2 else LegacyRecordBatch(content, magic)
            if inner.validate_crc():
                batch = cls(content, inner, base_offset)
                if magic == 2:
                    head = _HEAD.unpack_from(content)
                    batch._codec = head[5] & _CODEC_BITS
                    batch._is_dense = head[12] == head[6] + 1
                    batch.next_offset = base_offset + head[6] + 1
                    batch.is_control_batch = bool(head[5] & _CONTROL_BIT)
                    batch.is_transactional = bool(head[5] & _TRANSACTIONAL_BIT)
                    batch.producer_id = head[9]
                else:
                    batch.next_offset = inner.next_offset
                return batch
        except Exception as error:
            return cls.unreadable(content, base_offset, _told(error), following)
        batch = cls.unreadable(content, base_offset, "its checksum is wrong", following)
        batch.is_corrupt = True
        return batch

    @classmethod
    def unreadable(cls, content: memoryview, base_offset: int, reason: str, following: int | None) -> Batch:
        """Return a batch that is one record: these bytes, and why nothing can be made of them."""
        batch = cls(content, None, base_offset)
        batch._flaw = reason
        if following is not None and following > base_offset:
            batch.next_offset = following  # its own word on where it ends may be what is wrong
        elif len(content) >= _HEAD.size and content[_MAGIC_AT] == 2:
            batch.next_offset = base_offset + max(0, _HEAD.unpack_from(content)[6]) + 1
        return batch

    def validate_crc(self) -> bool:
        """Return True: a wrong checksum was looked for before, and does not end the fetch."""
        return True

    def __next__(self) -> Any:
        """Return the only record of a control batch, which no client writes."""
        return next(iter(self._inner))

    def __iter__(self) -> Iterator[Any]:
        if self._flaw is not None:
            yield self._rest(self.base_offset, self._flaw)
            return
        content, parsed = self._content, self._inner
        if self._codec:
            try:
                content = _plain(content, self._codec)
            except Unpackable as error:
                yield self._rest(self.base_offset, str(error))
                return
            parsed = DefaultRecordBatch(content)
        read, offset, is_dense = 0, self.base_offset - 1, self._is_dense
        with contextlib.suppress(Exception):
            for record in parsed:
                if record.offset != offset + 1 and (is_dense or not offset < record.offset < self.next_offset):
                    break
                read, offset = read + 1, record.offset
                yield record
            else:
                if not is_dense or offset + 1 == self.next_offset:
                    return
        reason = "it holds fewer records than it says"
        try:
            for record in itertools.islice(_records(content), read, None):
                if is_dense and record.offset != offset + 1:
                    reason = "its records are out of order"
                    break
                offset = record.offset
                yield record
            if not is_dense:
                return
        except ValueError as error:
            reason = str(error)
        if offset + 1 < self.next_offset:
            yield self._rest(offset + 1, reason)

    def _rest(self, first_offset: int, reason: str) -> ReadRecord:
        last = max(first_offset, self.next_offset - 1)
        value = UnreadableBatch.of(bytes(self._content), first_offset, last, reason)
        return ReadRecord(first_offset, -1, 0, None, value, ())


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())[:_MESSAGE_CHARACTERS_MAX]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# --- Reading a record ------------------------------------------------------------------------------------


def _plain(content: memoryview, codec: int) -> memoryview:
    """Return a batch of version 2 with its records unpacked. Raises `Unpackable`."""
    head = bytearray(content[: _HEAD.size])
    (attributes,) = struct.unpack_from(">h", head, _ATTRIBUTES_AT)
    struct.pack_into(">h", head, _ATTRIBUTES_AT, attributes & ~_CODEC_BITS)
    return memoryview(bytes(head) + unpacked(codec, content[_HEAD.size :]))


def _records(content: memoryview) -> Iterator[ReadRecord]:
    """Read an unpacked batch of version 2 record by record. Raises `ValueError`."""
    head = _HEAD.unpack_from(content)
    base, magic, attributes, last_delta, first_time, greatest_time = head[0], head[3], *head[5:9]
    count = head[12]
    if magic != 2:
        raise ValueError("it is of an old version and cannot be read")
    body = content[_HEAD.size :]
    appended = bool(attributes & _APPEND_TIME_BIT)
    at = 0
    for _ in range(count):
        length, start = _varint(body, at)
        end = start + length
        if length < 0 or end > len(body):
            raise ValueError("a record reaches beyond the end of the batch")
        record = _record(body[start:end])
        if not 0 <= record.offset <= last_delta:
            raise ValueError("a record's offset is outside of the batch")
        yield record._replace(
            offset=base + record.offset,
            timestamp=greatest_time if appended else first_time + record.timestamp,
            timestamp_type=int(appended),
        )
        at = end


def _record(body: memoryview) -> ReadRecord:
    """Read one record's bytes; its offset and time stamp are relative to its batch's."""
    at = 1  # the attributes, none of which has a meaning
    time_delta, at = _varint(body, at)
    offset_delta, at = _varint(body, at)
    key, at = _field(body, at)
    value, at = _field(body, at)
    count, at = _varint(body, at)
    if not 0 <= count <= len(body):
        raise ValueError(f"a record says that it has {count} headers")
    headers = []
    for _ in range(count):
        name, at = _field(body, at)
        if name is None:
            raise ValueError("a header has no name")
        content, at = _field(body, at)
        headers.append((name.decode("utf-8", "surrogateescape"), content))
    if at != len(body):
        raise ValueError("a record has more bytes than its fields")
    return ReadRecord(offset_delta, time_delta, 0, key, value, tuple(headers))


def _field(body: memoryview, at: int) -> tuple[bytes | None, int]:
    """Read a length and as many bytes; a negative length means that there is no value."""
    length, at = _varint(body, at)
    if length < 0:
        return None, at
    if at + length > len(body):
        raise ValueError("a field reaches beyond the end of its record")
    return bytes(body[at : at + length]), at + length


def _varint(body: memoryview, at: int) -> tuple[int, int]:
    """Read a zigzag varint. Raises `ValueError` where it does not end."""
    value = 0
    for index in range(_VARINT_BYTES_MAX):
        if at + index >= len(body):
            break
        byte = body[at + index]
        value |= (byte & 0x7F) << 7 * index
        if not byte & 0x80:
            return (value >> 1) ^ -(value & 1), at + index + 1
    raise ValueError("a number does not end")


# --- Writing a record ------------------------------------------------------------------------------------


class SingleRecordBatch:
    """A batch of one record for `AIOKafkaProducer.send_batch`, which takes what `send` refuses or cannot encode:
    neither key nor value, and header names that are not UTF-8.

    It has the methods that aiokafka's sender calls of its own `BatchBuilder`.
    """

    def __init__(
        self, *, key: bytes | None, value: bytes | None, headers: Headers, transactional: bool, compressed: bool
    ) -> None:
        """With `compressed` it is written with gzip, which every broker and client has."""
        self._time_ms = int(time.time() * 1000)
        record = _encoded(key, value, headers)
        body = _as_varint(len(record)) + record
        self._body = gzip.compress(body) if compressed else body
        self._attributes = (_TRANSACTIONAL_BIT if transactional else 0) | (_GZIP if compressed else 0)
        self._producer = (-1, -1, -1)

    def record_count(self) -> int:
        """Return the number of records."""
        return 1

    def size(self) -> int:
        """Return the size in bytes."""
        return _HEAD.size + len(self._body)

    def closed(self) -> bool:
        """Return True: nothing can be added."""
        return True

    def close(self) -> None:
        """Do nothing: as `closed` says."""

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._producer = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytearray:
        content = bytearray(_HEAD.size) + self._body
        length = len(content) - _LOG_OVERHEAD
        _HEAD.pack_into(
            content, 0, 0, length, -1, 2, 0, self._attributes, 0, self._time_ms, self._time_ms, *self._producer, 1
        )
        struct.pack_into(">I", content, _CRC_AT, calc_crc32c(content[_ATTRIBUTES_AT:]))
        return content


def _encoded(key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    parts = [b"\0", _as_varint(0), _as_varint(0), _as_field(key), _as_field(value), _as_varint(len(headers))]
    for name, content in headers:
        parts += [_as_field(name.encode("utf-8", "surrogateescape")), _as_field(content)]
    return b"".join(parts)


def _as_field(content: bytes | None) -> bytes:
    return _as_varint(-1) if content is None else _as_varint(len(content)) + content


def _as_varint(value: int) -> bytes:
    left = (value << 1) ^ (value >> 63)
    encoded = bytearray()
    while left > 0x7F:
        encoded.append(0x80 | left & 0x7F)
        left >>= 7
    encoded.append(left)
    return bytes(encoded)
