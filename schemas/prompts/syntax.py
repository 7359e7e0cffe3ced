"""Syntax of other tools in a prompt, of which their users should be told: here a prompt is plain text.

A weight, a LoRA tag or a wildcard that is read as text shifts the picture and takes up some of the 77 tokens. The rules
follow what the tools parse (AUTOMATIC1111 1.10.1 `prompt_parser.py`, its Dynamic Prompts extension, ComfyUI 0.3
`sd1_clip.py`, compel 2.5.1, SwarmUI 0.9.8, Midjourney's parameters), narrowed so that ordinary prose with brackets,
ratios, times of day and words in capitals is left alone: `(a word)` in single brackets is a weight of 1.1 in
AUTOMATIC1111, and in prose it is a remark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final

from darkroom.schemas.errors import bounded

SHOWN_MAX: Final = 5
"""Pieces of a prompt that one warning quotes."""
_PIECE_CHARACTERS_MAX: Final = 40
_NEAR_CHARACTERS: Final = 60
"""How far around a word in capitals its neighbours are looked for."""

_Found = Iterator[tuple[int, str]]
_Rules = tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], bool]], ...]
_LETTER = re.compile(r"[^\W\d_]")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
"""A backslash takes a bracket its meaning in A1111 and ComfyUI."""

_MARKS = re.compile(r"[<()\[{]|__|--|::|AND|BREAK|ADD|[gG]:")
"""What every piece that is looked for has in it (`[gG]:` of `embedding:`): most prompts have none, and each record's
prompt is looked at before it is queued."""

# None of the patterns can look at a character more than a fixed number of times: repeats are possessive or bounded, or
# cannot begin within each other.
_TAG = re.compile(
    r"<(?:lora|lyco|lycoris|hypernet|embed|embedding|wildcard|random|segment|region|object|fromto|alternate)"
    r":[^<>\n]{1,200}>",
    re.IGNORECASE,
)
_WEIGHT = re.compile(r"\([^()]*+\)")
_WEIGHT_ENDS = re.compile(r"(?P<before>.?)[^\S\n]*:\s*[+-]?(?P<number>\d{1,2}(?:[.,]\d{0,6})?|[.,]\d{1,6})\s*\)\Z")
_DOUBLED = re.compile(r"(?<!\()\({2,}+[^()]*+\){2,}+|(?<!\{)\{{2,}+[^{}]*+\}{2,}+")
_SQUARE = re.compile(r"\[[^\[\]]++\]")
_CHOICE = re.compile(r"\{[^{}]*+\}")
_WILDCARD = re.compile(r"(?<!\w)__(?=[^\W_]|[*~])[\w/.*~ -]{1,80}?__(?!\w)")
_WORD = re.compile(r"\b(?:BREAK|AND|ADDCOMM|ADDBASE|ADDCOL|ADDROW)\b")
_EMBEDDING = re.compile(r"(?<!\w)embedding:[^\s,()]{1,80}", re.IGNORECASE)
_COMPEL = re.compile(r"\)(?:\+{1,5}|-{2,5}|[+-]?\d{1,2}\.\d{1,4})(?!\w)|\)\.(?:blend|swap|and)\(|\bwithLora\(")
_OPTION = re.compile(
    r"(?<!\S)--(?:ar|aspect|v|version|no|s|stylize|style|c|chaos|q|quality|seed|stop|tile|iw|niji|cref|sref|cw|sw|weird"
    r"|raw|uplight|upbeta|video|w|h)(?![\w-])"
)
_PART = re.compile(r"(?<=\S)::[+-]?\d{0,3}(?:\.\d{1,3})?(?=\s|,|\Z)")


def warnings_of(prompt: str, field: str = "prompt", *, is_weighted: bool = False) -> tuple[str, ...]:
    """Return a sentence where `prompt` has syntax of another tool, which quotes it; else nothing. Takes linear time.

    In a weighted prompt, weights, square brackets, BREAK and `embedding:` are read as such.
    """
    if _MARKS.search(prompt) is None or not (
        found := sorted(set(_pieces(prompt, _UNWEIGHTED if is_weighted else _RULES)))
    ):
        return ()
    shown = ", ".join(bounded(piece, _PIECE_CHARACTERS_MAX) for _, piece in found[:SHOWN_MAX])
    more = f" and {len(found) - SHOWN_MAX} more" if len(found) > SHOWN_MAX else ""
    adapter = " A LoRA is asked for by `adapter`." if any(_is_lora(piece) for _, piece in found) else ""
    weighted = (
        " A textual inversion is read where `prompt_syntax` is weighted." if any(map(_is_embedding, found)) else ""
    )
    return (f"{field}: read as plain text, not as syntax of another tool: {shown}{more}.{adapter}{weighted}",)


def _is_lora(piece: str) -> bool:
    return piece.lower().startswith(("<lora:", "<lyco", "withlora("))


def _is_embedding(found: tuple[int, str]) -> bool:
    return found[1].lower().startswith("embedding:")


def _pieces(prompt: str, rules: _Rules) -> _Found:
    """The places and the words of what another tool would not read as text."""
    text = _ESCAPED.sub("  ", prompt)
    for pattern, holds in rules:
        for match in pattern.finditer(text):
            if holds(match):
                begin, end = match.span()
                yield begin, " ".join(prompt[begin:end].split())


def _always(_match: re.Match[str]) -> bool:
    return True


def _has_words(match: re.Match[str]) -> bool:
    return _LETTER.search(match[0]) is not None


def _is_weighted(match: re.Match[str]) -> bool:
    """Whether brackets end in a weight: not in a time of day, a ratio or a verse, and not in a remark's number."""
    place = match[0].rfind(":")
    if place < 2:
        return False
    ending = _WEIGHT_ENDS.match(match[0], place - 1)
    return ending is not None and not (ending["before"].isdigit() and ending["number"].isdigit())


def _is_choice(match: re.Match[str]) -> bool:
    return "|" in match[0] and len(match[0]) > 3


def _is_alone(match: re.Match[str]) -> bool:
    """Whether a word in capitals stands among words that are not: in a text that shouts it is a word like others."""
    text, (begin, end) = match.string, match.span()
    if text[begin - 1 : begin] in {'"', "'", "\u201c"} and text[end : end + 1] in {'"', "'", "\u201d"}:
        return False
    before, after = text[max(0, begin - _NEAR_CHARACTERS) : begin], text[end : end + _NEAR_CHARACTERS]
    neighbours = [*_words(before)[-1:], *_words(after)[:1]]
    return not neighbours or not all(word.isupper() for word in neighbours)


def _words(text: str) -> list[str]:
    """The letters of each word that has more than one and is not itself such a word in capitals."""
    return [word for one in _WORD.sub(" ", text).split() if len(word := "".join(_LETTER.findall(one))) > 1]


_RULES: Final[_Rules] = (
    (_TAG, _always),
    (_WEIGHT, _is_weighted),
    (_DOUBLED, _has_words),
    (_SQUARE, _has_words),
    (_CHOICE, _is_choice),
    (_WILDCARD, _always),
    (_WORD, _is_alone),
    (_EMBEDDING, _always),
    (_COMPEL, _always),
    (_OPTION, _always),
    (_PART, _always),
)
_UNWEIGHTED: Final = tuple(rule for rule in _RULES if rule[0] not in (_WEIGHT, _DOUBLED, _SQUARE, _WORD, _EMBEDDING))
