"""Textual inversions that a weighted prompt names: `embedding:NAME`, as in ComfyUI. Pure.

A name ends at the first character that is no letter, digit, `_`, `-` or `.`; a full stop at its end is the sentence's.
The ending of a file, which ComfyUI's users write, does not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final, NamedTuple

from darkroom.schemas.prompts.weighted import parse_weighted

WEIGHTED: Final = "weighted"
"""The `prompt_syntax` in which embeddings are read."""
_LETTERS: Final = r"\w\u0300-\u036f-"
"""With the accents that macOS writes apart from their letters."""
_PATTERN: Final = rf"\w(?:[{_LETTERS}.]{{0,126}}[{_LETTERS}])?"
_REFERENCE = re.compile(rf"(?<!\w)embedding:(?P<name>{_PATTERN})", re.IGNORECASE)
_NAME = re.compile(_PATTERN)
_ENDINGS: Final = (".safetensors", ".pt", ".bin")


class EmbeddingName(NamedTuple):
    """A textual inversion in a prompt."""

    name: str


def split_embeddings(text: str) -> Iterator[str | EmbeddingName]:
    """Yield the text's pieces in order: words, and the embeddings between them."""
    begin = 0
    for found in _REFERENCE.finditer(text):
        if found.start() > begin:
            yield text[begin : found.start()]
        name = found["name"]
        for ending in _ENDINGS:
            name = name.removesuffix(ending)
        yield EmbeddingName(unicodedata.normalize("NFC", name))
        begin = found.end()
    if begin < len(text):
        yield text[begin:]


def embeddings_in(prompt: str, negative_prompt: str | None, prompt_syntax: str) -> tuple[str, ...]:
    """Return the names of the embeddings in a request's prompts, each once, in order; none in plain prompts.

    Raises `PromptSyntaxError` for prompts that no request can have.
    """
    if prompt_syntax != WEIGHTED:
        return ()
    # What stands in brackets may be a weight: `(embedding:1.5)` names nothing.
    parsed = [parse_weighted(text) for text in (prompt, negative_prompt or "") if _REFERENCE.search(text)]
    texts = (run.text for one in parsed for section in one.sections for run in section)
    pieces = (piece for text in texts for piece in split_embeddings(text))
    return tuple(dict.fromkeys(piece.name for piece in pieces if isinstance(piece, EmbeddingName)))


def is_embedding_name(name: str) -> bool:
    """Return True where a prompt can name an embedding so."""
    return _NAME.fullmatch(name) is not None and not name.endswith(_ENDINGS)
