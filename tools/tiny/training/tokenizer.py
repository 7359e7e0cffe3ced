"""Makes a CLIP tokenizer for which every word of the grammar is one token, and which still takes any text."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import transformers
from tokenizers.pre_tokenizers import ByteLevel

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH: Final = 77
_CLIP_TOKENIZER: Final[Any] = transformers.CLIPTokenizer

Pair = tuple[str, str]


def learn_merges(words: Sequence[str]) -> list[Pair]:
    """Learn byte-pair merges on the list of words until each word is one token.

    The most frequent pair comes first, and the alphabetically first of equals (Sennrich et al. 2016, on a list in which
    every word occurs once). Merges ordered by hand would split words whose parts another word's merge takes first.
    """
    pieces = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges: list[Pair] = []
    while True:
        pairs = Counter(pair for parts in pieces.values() for pair in itertools.pairwise(parts))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        pieces = {word: _merged(parts, best) for word, parts in pieces.items()}


def vocabulary(merges: Sequence[Pair]) -> dict[str, int]:
    """Return every byte within a word and at its end, the merged pieces, and finally the two special tokens."""
    characters = sorted(ByteLevel.alphabet())
    pieces = [*characters, *(f"{character}</w>" for character in characters), *(a + b for a, b in merges), START, END]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


def make_tokenizer(words: Sequence[str], settings: Mapping[str, Any]) -> Any:
    """Return the tokenizer. `settings` are passed to `CLIPTokenizer`."""
    merges = learn_merges(words)
    return _CLIP_TOKENIZER(vocab=vocabulary(merges), merges=merges, model_max_length=LENGTH, **settings)


def _merged(parts: Sequence[str], pair: Pair) -> list[str]:
    result: list[str] = []
    for part in parts:
        if result and (result[-1], part) == pair:
            result[-1] += part
        else:
            result.append(part)
    return result
