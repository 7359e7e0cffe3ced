"""Splits a prompt's tokens into chunks of 75, as Stable Diffusion web UI does: a long prompt is several short ones.

Pure: token ids in, token ids out. Both of SDXL's tokenizers give the same ids, so this is done once for both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

CHUNK_TOKENS: Final = 75
"""What fits between the begin and the end token of CLIP's 77."""
CHUNKS_MAX: Final = 4
"""Three hundred tokens: longer texts are lists that no picture follows, and each chunk costs memory in every step."""
COMMA_TOKENS: Final = 20
"""How far back a comma may lie at which a full chunk ends early, so that no phrase is torn; the web UI's default."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Up to `CHUNK_TOKENS` tokens with a weight each."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Chunks:
    """A whole text: one chunk at least."""

    chunks: tuple[Chunk, ...]
    tokens: int
    """That are in the chunks."""
    tokens_cut: int
    """That did not fit."""


def split_chunks(
    sections: Iterable[Sequence[tuple[Sequence[int], float]]], comma: int, glued: Collection[int] = ()
) -> Chunks:
    """Return the chunks of sections, each of runs of token ids with their weight. A section begins a new chunk.

    Where a chunk is full and the next token is not a comma, the tokens after a comma that lies at most `COMMA_TOKENS`
    back move on. `comma` is the id of a comma that ends a word; no chunk begins with an id in `glued`, which belongs to
    the one before it, of at most `CHUNK_TOKENS` in a row.
    """
    chunks = [chunk for section in sections for chunk in _of_section(section, comma, glued)] or [Chunk((), ())]
    kept = chunks[:CHUNKS_MAX]
    tokens = sum(len(chunk.ids) for chunk in kept)
    return Chunks(tuple(kept), tokens, sum(len(chunk.ids) for chunk in chunks) - tokens)


def _of_section(section: Sequence[tuple[Sequence[int], float]], comma: int, glued: Collection[int]) -> list[Chunk]:
    left = [(token, weight) for ids, weight in section for token in ids]
    chunks = []
    while len(left) > CHUNK_TOKENS:
        end = CHUNK_TOKENS
        if left[CHUNK_TOKENS][0] != comma:
            commas = [at for at in range(CHUNK_TOKENS - COMMA_TOKENS, CHUNK_TOKENS) if left[at][0] == comma]
            end = commas[-1] + 1 if commas else CHUNK_TOKENS
        while left[end][0] in glued:
            end -= 1
        chunks.append(_chunk(left[:end]))
        left = left[end:]
    return [*chunks, _chunk(left)]


def _chunk(tokens: Sequence[tuple[int, float]]) -> Chunk:
    return Chunk(tuple(token for token, _ in tokens), tuple(weight for _, weight in tokens))
