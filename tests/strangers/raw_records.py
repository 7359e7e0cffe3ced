"""Writes records of any bytes to Kafka, as clients in C, Go and Rust can, and reads them back: no names, no asserts.

An encoder of its own for Kafka's record batch version 2 (KIP-98), so that a mistake in the product's is not repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import struct
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.util import calc_crc32c

from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.schemas.settings import KafkaSettings

FETCH_BYTES = 4 * 1024 * 1024
NOT_YET = {3, 5, 6}
"""Kafka's errors of a topic that was made a moment ago: unknown, without a leader, or not at this broker yet."""
LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Raw:
    """A record's bytes."""

    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[bytes, bytes | None]] = ()
    timestamp_ms: int | None = None
    attributes: int = 0


def varint(number: int) -> bytes:
    number = number * 2 if number >= 0 else -number * 2 - 1
    out = []
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    return bytes([*out, number])


def field(content: bytes | None) -> bytes:
    return varint(-1) if content is None else varint(len(content)) + content


def body(records: Sequence[Raw], first_ms: int) -> bytes:
    out = b""
    for index, record in enumerate(records):
        moved_ms = (first_ms if record.timestamp_ms is None else record.timestamp_ms) - first_ms
        one = bytes([record.attributes]) + varint(moved_ms) + varint(index) + field(record.key) + field(record.value)
        one += varint(len(record.headers)) + b"".join(field(name) + field(value) for name, value in record.headers)
        out += varint(len(one)) + one
    return out


def batch(
    records: Sequence[Raw], *, codec: int = 0, packed: bytes | None = None, count: int | None = None, base: int = 0
) -> bytes:
    """A batch of these records; `packed` is put in the place of their bytes, `codec` named as its compression."""
    first_ms = next((one.timestamp_ms for one in records if one.timestamp_ms is not None), int(time.time() * 1000))
    times = [first_ms if one.timestamp_ms is None else one.timestamp_ms for one in records]
    content = body(records, first_ms) if packed is None else packed
    number = len(records) if count is None else count
    summed = struct.pack(">hiqqqhii", codec, number - 1, first_ms, max(times), -1, -1, -1, number) + content
    rest = struct.pack(">ibI", -1, 2, calc_crc32c(summed)) + summed
    return struct.pack(">qi", base, len(rest)) + rest


def records_in(content: bytes) -> dict[int, Raw]:
    """The records of whole batches, plain or of gzip, by offset."""
    found = {}
    at = 0
    while at < len(content):
        base, length = struct.unpack_from(">qi", content, at)
        codec, _, first_ms, *_, count = struct.unpack_from(">hiqqqhii", content, at + 21)
        packed = content[at + 61 : at + 12 + length]
        at += 12 + length
        if codec & 0x20:
            continue  # the end of a transaction
        left = io.BytesIO(gzip.decompress(packed) if codec & 7 else packed)
        for _ in range(count):
            _number(left)
            attributes = left.read(1)[0]
            moved_ms, index = _number(left), _number(left)
            key, value = _content(left), _content(left)
            headers = [(_content(left) or b"", _content(left)) for _ in range(_number(left))]
            found[base + index] = Raw(key, value, headers, first_ms + moved_ms, attributes)
    return found


def _number(left: io.BytesIO) -> int:
    value = shift = 0
    while True:
        byte = left.read(1)[0]
        value |= byte % 128 << shift
        shift += 7
        if byte < 128:
            return value // 2 if value % 2 == 0 else -(value // 2) - 1


def _content(left: io.BytesIO) -> bytes | None:
    length = _number(left)
    return None if length < 0 else left.read(length)


class RawKafka:
    """Produce and fetch requests to a partition's leader."""

    def __init__(self, client: AIOKafkaClient) -> None:
        self._client = client

    async def put(self, topic: str, partition: int, content: bytes) -> tuple[int, int]:
        """The broker's error code for a batch, and the base offset that it got."""
        request = ProduceRequest(
            transactional_id=None, required_acks=-1, timeout=10_000, topics=[(topic, [(partition, content)])]
        )
        async with asyncio.timeout(LIMIT_S):
            while True:
                answer = await self._client.send(await self._leader(topic, partition), request)
                [(_, [(_, error, offset, *_)])] = answer.topics
                if error not in NOT_YET:
                    return error, offset
                await asyncio.sleep(0.05)

    async def put_all(self, topic: str, partition: int, records: Sequence[Raw], *, in_a_batch: int = 100) -> int:
        """Put records that the broker takes; the base offset of the first."""
        first = None
        for at in range(0, len(records), in_a_batch):
            error, offset = await self.put(topic, partition, batch(records[at : at + in_a_batch]))
            assert error == 0, f"the broker refused a batch with error {error}"
            first = offset if first is None else first
        assert first is not None
        return first

    async def get(self, topic: str, partition: int, offset: int) -> bytes:
        """The bytes of whatever batches the broker has from there on."""
        request = FetchRequest(500, 1, FETCH_BYTES, 0, [(topic, [(partition, offset, FETCH_BYTES)])], "")
        answer = await self._client.send(await self._leader(topic, partition), request)
        [(_, [(_, error, *rest)])] = answer.topics
        assert error == 0
        content: bytes = rest[-1]
        return content

    async def _leader(self, topic: str, partition: int) -> Any:
        await self._client._wait_on_metadata(topic)
        return next(
            one.leader for number, one in self._client.cluster._partitions[topic].items() if number == partition
        )


@contextlib.asynccontextmanager
async def raw_kafka(kafka: KafkaSettings) -> AsyncIterator[RawKafka]:
    client = AIOKafkaClient(**kafka_arguments(kafka))
    await client.bootstrap()
    try:
        yield RawKafka(client)
    finally:
        await client.close()
