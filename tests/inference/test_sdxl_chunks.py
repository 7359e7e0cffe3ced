"""Proves where a long prompt is split: the counts are those that Stable Diffusion web UI's chunker gives."""

from __future__ import annotations

import pytest

from darkroom.inference.sdxl.prepare.chunks import CHUNKS_MAX, Chunks, split_chunks

COMMA = 7
WORD = 1


def split(tokens: list[int]) -> Chunks:
    return split_chunks([[(tokens, 1.0)]], COMMA)


@pytest.mark.parametrize(
    ("tokens", "lengths"),
    [
        ([], [0]),
        ([WORD] * 75, [75]),
        ([WORD] * 76, [75, 1]),
        ([WORD] * 75 + [COMMA, WORD], [75, 2]),
        ([WORD] * 70 + [COMMA] + [WORD] * 15, [71, 15]),
        ([WORD] * 55 + [COMMA] + [WORD] * 30, [56, 30]),
        ([WORD] * 54 + [COMMA] + [WORD] * 31, [75, 11]),
        ([WORD] * 74 + [COMMA] + [WORD] * 3, [75, 3]),
    ],
)
def test_a_full_chunk_ends_at_a_near_comma(tokens: list[int], lengths: list[int]) -> None:
    assert [len(chunk.ids) for chunk in split(tokens).chunks] == lengths


def test_sections_begin_chunks_and_weights_stay_with_their_tokens() -> None:
    made = split_chunks([[([1, 2], 1.3), ([3], 1.0)], [([4], 0.5)]], COMMA)
    assert [chunk.ids for chunk in made.chunks] == [(1, 2, 3), (4,)]
    assert [chunk.weights for chunk in made.chunks] == [(1.3, 1.3, 1.0), (0.5,)]
    assert (made.tokens, made.tokens_cut) == (4, 0)


def test_what_does_not_fit_is_counted() -> None:
    made = split([WORD] * 75 * CHUNKS_MAX + [WORD] * 9)
    assert len(made.chunks) == CHUNKS_MAX
    assert (made.tokens, made.tokens_cut) == (300, 9)
