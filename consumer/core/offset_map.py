"""Metadata that a commit carries beside its offset: a map of what finished above it, and a journal of what is begun.

Work finishes out of order inside a partition, and Kafka keeps one committed offset. The map tells which offsets above
it are finished too, so that whoever opens the partition next renders none of them again. The journal tells which
records were in the lanes, so that one that kills its worker is known (`darkroom.consumer.core.journal`).

Text form: `dr1.` and the unpadded URL-safe base64 of these bytes, numbers big endian:

    crc32 (4) | bitmap length (2) | bitmap | boots (1) | boot (8) ... | entries (1) | entry ...
    entry: offset - base (2) | alone (1 bit), trials (7 bits) | index of a trial's boot (1) ...

Bit i of the bitmap, least significant first, is offset base + 1 + i: the base itself is unfinished by definition. The
first boot is the writer's. The checksum also covers topic, partition and base, so metadata that was cut, corrupted,
written by another version or copied from another partition does not verify, and is replayed.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from darkroom.consumer.core.journal import ENTRIES_MAX, NO_JOURNAL, TRIALS_MAX, Entry, Journal
from darkroom.consumer.core.partition_key import PartitionKey

MAP_PREFIX: Final = "dr1."
METADATA_CHARS_MAX: Final = 4096
"""Kafka's `offset.metadata.max.bytes` as it comes; one character above it kills the producer."""
METADATA_CHARS_MIN: Final = 256
"""The least room that is asked for: a map of hundreds of offsets beside one record with all its trials."""
_FRAME_BYTES: Final = 4 + 2
"""Checksum and the bitmap's length."""
_BOOT_BYTES: Final = 8
_JOURNAL_BYTES_MAX: Final = 2 + 255 * _BOOT_BYTES // 4 + ENTRIES_MAX * (3 + TRIALS_MAX)
"""Room kept for the journal: a quarter of the boots that one byte could name, and every entry with all its trials."""
_BOOTS_MAX: Final = 255 // 4


def window_offsets(metadata_chars_max: int) -> int:
    """Return the widest window whose map is sure to fit beside the fullest journal."""
    return (_bytes_within(metadata_chars_max) - _FRAME_BYTES - _journal_bytes(metadata_chars_max)) * 8


def _bytes_within(chars: int) -> int:
    """Return how many bytes so many characters of metadata can carry."""
    return (chars - len(MAP_PREFIX)) * 3 // 4


def _journal_bytes(metadata_chars_max: int) -> int:
    """Return the journal's share: as large a part as it has of Kafka's default."""
    return _bytes_within(metadata_chars_max) * _JOURNAL_BYTES_MAX // _bytes_within(METADATA_CHARS_MAX)


WINDOW_OFFSETS_MAX: Final = window_offsets(METADATA_CHARS_MAX)
"""The widest window under Kafka's default."""


def encode_map(
    partition: PartitionKey,
    base: int,
    finished: Iterable[int],
    journal: Journal = NO_JOURNAL,
    *,
    chars_max: int = METADATA_CHARS_MAX,
) -> str:
    """Return the metadata for a commit at `base`: empty where nothing is finished above it and nothing is in the lanes.

    Raises `ValueError` for an offset that the map cannot hold; the ledger's window keeps that from happening. Trials
    of more boots than there is room for are left out, the last records' first. Offsets beyond `window_offsets` of
    `chars_max` are left out, which happens where a broker's limit was lowered: after a reopening they are replayed,
    never skipped. The journal must fit (`fitting`).
    """
    bits = 0
    for offset in finished:
        index = offset - base - 1
        if not 0 <= index < WINDOW_OFFSETS_MAX:
            raise ValueError(f"offset {offset} is outside the map of base {base}")
        bits |= 1 << index
    encoded = _encode_journal(base, journal)
    room_bytes = _bytes_within(chars_max) - _FRAME_BYTES - len(encoded)
    bits &= (1 << 8 * max(0, room_bytes)) - 1
    if bits == 0 and not journal.entries:
        return ""
    bitmap = bits.to_bytes((bits.bit_length() + 7) // 8, "little")
    content = struct.pack(">H", len(bitmap)) + bitmap + encoded
    body = struct.pack(">I", _checksum(partition, base, content)) + content
    return MAP_PREFIX + base64.urlsafe_b64encode(body).decode("ascii").rstrip("=")


def fitting(journal: Journal, chars_max: int) -> Journal:
    """Return the part of the journal that fits into its share of so many characters: the lowest offsets' entries."""
    room_bytes = _journal_bytes(chars_max) - 2
    boots = {journal.boot}
    kept: dict[int, Entry] = {}
    for offset, entry in sorted(journal.entries.items())[:ENTRIES_MAX]:
        boots |= set(entry.trials)
        room_bytes -= 3 + len(entry.trials)
        if room_bytes < _BOOT_BYTES * min(len(boots), _BOOTS_MAX):
            break
        kept[offset] = entry
    return Journal(journal.boot, kept)


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed offset with what its metadata says. Metadata is decoded once, where it is read; this travels."""

    base: int
    finished: frozenset[int] = frozenset()
    """The offsets above the base that are finished too."""
    journal: Journal = NO_JOURNAL
    is_verified: bool = True
    """False where the metadata is not that of this very commit: then nothing above the base counts as finished."""


def decode_commit(partition: PartitionKey, base: int, metadata: str) -> Commit:
    """Return what stands committed. Metadata that does not verify is replayed, never skipped."""
    content = _verified(partition, base, metadata)
    if content is None:
        return Commit(base, is_verified=False)
    if not content:
        return Commit(base)
    length = int.from_bytes(content[:2], "big")
    bits = int.from_bytes(content[2 : 2 + length], "little")
    finished = frozenset(base + 1 + index for index in range(bits.bit_length()) if bits >> index & 1)
    try:
        journal = _decode_journal(base, content[2 + length :])
    except (struct.error, IndexError):
        journal = NO_JOURNAL  # the checksum is right, but no worker of this version writes this
    return Commit(base, finished, journal)


def _verified(partition: PartitionKey, base: int, metadata: str) -> bytes | None:
    """The content behind the checksum; empty for empty metadata, None for what is not ours."""
    if metadata == "":
        return b""
    if not metadata.startswith(MAP_PREFIX) or len(metadata) > METADATA_CHARS_MAX:
        return None
    text = metadata[len(MAP_PREFIX) :]
    try:
        body = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError, ValueError):
        return None
    if len(body) < 6 or int.from_bytes(body[:4], "big") != _checksum(partition, base, body[4:]):
        return None
    return body[4:]


def _encode_journal(base: int, journal: Journal) -> bytes:
    if journal.boot is None or not journal.entries:
        return b""
    boots = {journal.boot: 0}
    encoded = b""
    entries = sorted(journal.entries.items())[:ENTRIES_MAX]
    for offset, entry in entries:
        indexes = [
            boots.setdefault(boot, len(boots)) for boot in entry.trials if boot in boots or len(boots) < _BOOTS_MAX
        ]
        encoded += struct.pack(">HB", offset - base, entry.alone << 7 | len(indexes)) + bytes(indexes)
    names = b"".join(bytes.fromhex(boot) for boot in boots)
    return bytes([len(boots)]) + names + bytes([len(entries)]) + encoded


def _decode_journal(base: int, content: bytes) -> Journal:
    if not content:
        return NO_JOURNAL
    at = 1 + content[0] * _BOOT_BYTES
    boots = [content[place : place + _BOOT_BYTES].hex() for place in range(1, at, _BOOT_BYTES)]
    entries = {}
    count, at = content[at], at + 1
    for _ in range(count):
        delta, flags = struct.unpack_from(">HB", content, at)
        trials = flags & 0x7F
        indexes = content[at + 3 : at + 3 + trials]
        entries[base + delta] = Entry(bool(flags >> 7), tuple(boots[index] for index in indexes))
        at += 3 + trials
    return Journal(boots[0], entries)


def _checksum(partition: PartitionKey, base: int, content: bytes) -> int:
    bound = f"{partition.topic}\x00{partition.partition}\x00{base}\x00".encode()
    return zlib.crc32(content, zlib.crc32(bound))
