"""Proves that the map in the commit metadata says exactly what was put in, and that anything else reads as None."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.consumer.core.offset_map import (
    MAP_PREFIX,
    METADATA_CHARS_MAX,
    WINDOW_OFFSETS_MAX,
    _checksum,
    decode_commit,
    encode_map,
)
from darkroom.consumer.core.partition_key import PartitionKey

P = PartitionKey("generation.requests", 3)
bases = st.integers(0, 2**53)
windows = st.frozensets(st.integers(1, WINDOW_OFFSETS_MAX), max_size=80)


@given(bases, windows)
def test_round_trip(base: int, above: frozenset[int]) -> None:
    finished = {base + delta for delta in above}
    text = encode_map(P, base, finished)
    assert len(text) <= METADATA_CHARS_MAX
    assert text.isascii()
    assert decode_commit(P, base, text).finished == finished


def test_the_widest_window_fits_the_metadata() -> None:
    text = encode_map(P, 7, range(8, 8 + WINDOW_OFFSETS_MAX))
    assert len(text) <= METADATA_CHARS_MAX


def test_an_offset_outside_of_the_map_is_refused() -> None:
    for offset in (7, 6, 8 + WINDOW_OFFSETS_MAX):
        with pytest.raises(ValueError, match="outside the map"):
            encode_map(P, 7, [offset])


@given(bases, windows.filter(bool), st.data())
def test_a_map_of_another_commit_does_not_verify(base: int, above: frozenset[int], data: st.DataObject) -> None:
    text = encode_map(P, base, {base + delta for delta in above})
    assert not decode_commit(P, base + 1, text).is_verified
    assert not decode_commit(PartitionKey(P.topic, 4), base, text).is_verified
    assert not decode_commit(PartitionKey("other", 3), base, text).is_verified
    cut = data.draw(st.integers(1, len(text) - 1))
    assert not decode_commit(P, base, text[:cut]).is_verified


@given(bases, windows.filter(bool), st.data())
def test_a_corrupted_map_does_not_verify(base: int, above: frozenset[int], data: st.DataObject) -> None:
    finished = {base + delta for delta in above}
    text = encode_map(P, base, finished)
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda char: char != text[at]))
    changed = decode_commit(P, base, text[:at] + other + text[at + 1 :])
    # The last base64 digit may hold padding bits that say nothing; any other change is noticed.
    assert not changed.is_verified or (changed.finished == finished and at == len(text) - 1)


@given(st.text(max_size=200))
def test_whatever_else_stands_there_is_not_verified(text: str) -> None:
    assert not decode_commit(P, 5, text).is_verified or text == ""


@given(bases, st.binary(max_size=4), st.binary(max_size=60))
def test_what_is_rightly_summed_and_makes_no_sense_ends_nobody(base: int, bitmap: bytes, journal: bytes) -> None:
    content = struct.pack(">H", len(bitmap)) + bitmap + journal
    body = struct.pack(">I", _checksum(P, base, content)) + content
    text = MAP_PREFIX + base64.urlsafe_b64encode(body).decode().rstrip("=")
    commit = decode_commit(P, base, text)
    assert all(offset > base for offset in commit.finished)
    assert all(offset >= base for offset in commit.journal.entries)
