"""Unpacks a compressed record batch, within a limit.

aiokafka unpacks whole whatever a producer packed: a megabyte of zstd can hold more than a worker's memory, and the
broker takes it, since it checks records one by one as they come out. It also refuses bytes behind the end of a gzip
stream, which Java's `GZIPInputStream`, and so the broker, ignores.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, Final

import cramjam

UNPACKED_BYTES_MAX: Final = 128 * 1024 * 1024
"""Of one batch: twice the largest record that `topics.max_message_bytes` allows. Producers fill batches up to far less
(librdkafka's `batch.size` 1 MB, the Java client's 16 KB) before they compress them."""
_ROOM_BYTES: Final = (64 * 1024, 1024 * 1024, 16 * 1024 * 1024, UNPACKED_BYTES_MAX)
"""Tried one after the other: neither LZ4 nor zstd has to say how large its content is."""
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_XERIAL_HEAD: Final = b"\x82SNAPPY\0"
_XERIAL_HEAD_BYTES: Final = 16
"""With two version numbers."""


class Unpackable(ValueError):  # noqa: N818 - named for what was found
    """Raised where a batch's packed content cannot be unpacked, or not within the limit."""


def unpacked(codec: int, content: memoryview) -> bytes:
    """Return what `content` holds. `codec` is as in a batch's attributes: gzip 1, snappy 2, LZ4 3, zstd 4.

    Raises `Unpackable`.
    """
    unpack = _CODECS.get(codec)
    if unpack is None:
        raise Unpackable(f"its compression {codec} is not one that Kafka has")
    try:
        return unpack(content)
    except (zlib.error, cramjam.DecompressionError, struct.error) as error:
        raise Unpackable(f"it cannot be decompressed: {error}") from error


def _gzip(content: memoryview) -> bytes:
    parts: list[bytes] = []
    left, size = content.tobytes(), 0
    while left:
        member = zlib.decompressobj(_GZIP_WINDOW)
        try:
            part = member.decompress(left, UNPACKED_BYTES_MAX - size + 1)
        except zlib.error:
            if parts:
                break  # what stands behind a whole member and is none itself
            raise
        size += len(part)
        if size > UNPACKED_BYTES_MAX:
            raise _too_large()
        if not member.eof:
            raise Unpackable("it cannot be decompressed: its gzip stream is cut off")
        parts.append(part)
        left = member.unused_data
    return b"".join(parts)


def _snappy(content: memoryview) -> bytes:
    if content[: len(_XERIAL_HEAD)].tobytes() != _XERIAL_HEAD:
        return _snappy_block(content, UNPACKED_BYTES_MAX)
    # The Java client's stream: blocks with their lengths before them.
    parts: list[bytes] = []
    at, room = _XERIAL_HEAD_BYTES, UNPACKED_BYTES_MAX
    while at < len(content):
        (length,) = struct.unpack_from(">i", content, at)
        if length < 0 or at + 4 + length > len(content):
            raise Unpackable("it cannot be decompressed: a snappy block is cut off")
        parts.append(_snappy_block(content[at + 4 : at + 4 + length], room))
        room -= len(parts[-1])
        at += 4 + length
    return b"".join(parts)


def _snappy_block(content: memoryview, room: int) -> bytes:
    if cramjam.snappy.decompress_raw_len(content) > room:
        raise _too_large()
    return bytes(cramjam.snappy.decompress_raw(content))


def _stream(decompress_into: Callable[[memoryview, bytearray], int]) -> Callable[[memoryview], bytes]:
    def unpack(content: memoryview) -> bytes:
        for room in _ROOM_BYTES:
            filled = bytearray(room)
            try:
                size = decompress_into(content, filled)
            except cramjam.DecompressionError as error:
                if "whole buffer" not in str(error):
                    raise
                continue  # there was too little room
            return bytes(memoryview(filled)[:size])
        raise _too_large()

    return unpack


def _too_large() -> Unpackable:
    return Unpackable(f"it holds more than {UNPACKED_BYTES_MAX} bytes when it is decompressed")


_CODECS: Final[dict[int, Callable[[memoryview], bytes]]] = {
    1: _gzip,
    2: _snappy,
    3: _stream(lambda content, room: _size(cramjam.lz4.decompress_into(content, room))),
    4: _stream(lambda content, room: _size(cramjam.zstd.decompress_into(content, room))),
}


def _size(written: Any) -> int:
    return int(written)
