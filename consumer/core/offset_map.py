"""The map of finished offsets that travels in a commit's metadata.

Work finishes out of order inside a partition, and Kafka keeps one committed offset. The map tells which
offsets above it are finished too, so that whoever opens the partition next renders none of them again.

Text form: `dr1.` and the unpadded URL-safe base64 of `crc32 (4 bytes, big endian) + bitmap`. Bit i of the
bitmap (least significant bit first) stands for offset base + 1 + i: the base itself is unfinished by
definition. The checksum also covers topic, partition and base, so a map that was cut, corrupted, written by
another version or copied from another partition does not verify. A map that does not verify reads as None:
the caller replays, and never skips.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable

from consumer.core.partition_key import PartitionKey

MAP_PREFIX = "dr1."
METADATA_CHARS_MAX = 4096
"""Kafka's `offset.metadata.max.bytes` as it comes; one character above it kills the producer."""
WINDOW_OFFSETS_MAX = (METADATA_CHARS_MAX - len(MAP_PREFIX)) * 6 - 64
"""The widest window whose map is sure to fit: 6 bits a character, less the checksum and padding."""


def encode_map(partition: PartitionKey, base: int, finished: Iterable[int]) -> str:
    """The metadata for a commit at `base` with these offsets finished above it. Empty where there are none.

    Raises `ValueError` for an offset that the map cannot hold; the ledger's window keeps that from happening.
    """
    bits = 0
    for offset in finished:
        index = offset - base - 1
        if not 0 <= index < WINDOW_OFFSETS_MAX:
            raise ValueError(f"offset {offset} is outside the map of base {base}")
        bits |= 1 << index
    if bits == 0:
        return ""
    bitmap = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    body = _checksum(partition, base, bitmap).to_bytes(4, "big") + bitmap
    return MAP_PREFIX + base64.urlsafe_b64encode(body).decode("ascii").rstrip("=")


def decode_map(partition: PartitionKey, base: int, metadata: str) -> frozenset[int] | None:
    """The finished offsets above `base`, or None where the metadata is not a map of this very commit."""
    if metadata == "":
        return frozenset()
    if not metadata.startswith(MAP_PREFIX) or len(metadata) > METADATA_CHARS_MAX:
        return None
    text = metadata[len(MAP_PREFIX) :]
    try:
        body = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        return None
    if len(body) < 5 or int.from_bytes(body[:4], "big") != _checksum(partition, base, body[4:]):
        return None
    bits = int.from_bytes(body[4:], "little")
    return frozenset(base + 1 + index for index in range(bits.bit_length()) if bits >> index & 1)


def _checksum(partition: PartitionKey, base: int, bitmap: bytes) -> int:
    bound = f"{partition.topic}\x00{partition.partition}\x00{base}\x00".encode()
    return zlib.crc32(bitmap, zlib.crc32(bound))
