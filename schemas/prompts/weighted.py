"""Weighted prompts: `(x)`, `(x:1.3)`, `[x]`, escapes and BREAK, as the field's tools write them. Pure.

The tools disagree. The rules here are those of Stable Diffusion web UI (A1111) unless stated:

- `(x)` multiplies the weight by 1.1, `[x]` divides it by 1.1, `(x:1.3)` multiplies it by 1.3; nested ones multiply.
- `\\(`, `\\)`, `\\[`, `\\]` and `\\\\` stand for the character. Any other backslash stays (A1111 drops it).
- A bracket that nobody closes counts to the end of the prompt. A closing one that nobody opened is text.
- A number is plain decimals; `(x:)` and `(x:1,3)` are `x:` and `x:1,3` at 1.1.
- BREAK, in capitals, begins a new chunk, inside of brackets, too (A1111 makes it a word there). Leading, trailing and
  doubled ones add nothing (A1111 makes empty chunks of them).
- Prompts that change over the steps (`[a:b:0.5]`, `[a:0.5]`, `[a|b]`) or are composed (`a AND b`) are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

ROUND: Final = 1.1
SQUARE: Final = 1 / 1.1
WEIGHT_MAX: Final = 2.0
"""Beyond it, and below 0, a prompt only burns the picture; such weights are clamped with a warning."""

_TOKENS = re.compile(
    r"""\\[()\[\]\\]                                            # an escaped character
    | :\s*(?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*\)         # a weight and the bracket that it closes
    | [()\[\]]
    | \s*\bBREAK\b\s*
    | [^\\()\[\]:B\s]+ | .
    """,
    re.VERBOSE | re.DOTALL,
)
_OPENING: Final = ("(", "[")
_CLOSING: Final = {")": ("(", ROUND), "]": ("[", SQUARE)}
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"(?:^|\s)AND(?:\s|$)")
_CHANGES = re.compile(r":\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*$")
_COMMA_NUMBER = re.compile(r":\s*\d+,\d+\s*\)")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_INNERMOST = re.compile(r"\([^()\[\]]*\)|\[[^()\[\]]*\]")
_SHOWN_CHARACTERS_MAX = 40


class PromptSyntaxError(ValueError):
    """A construct that is understood and not supported. Its text names the construct and the way out."""


@dataclass(frozen=True, slots=True)
class Run:
    """Text of one weight."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class WeightedPrompt:
    """A parsed prompt: its runs by section between BREAKs. There is always a section."""

    sections: tuple[tuple[Run, ...], ...]
    warnings: tuple[str, ...] = ()


@dataclass(slots=True)
class _Piece:
    text: str | None
    """None for a BREAK."""
    weight: float = 1.0


@dataclass(slots=True)
class _Reading:
    pieces: list[_Piece] = field(default_factory=list)
    opened: dict[str, list[int]] = field(default_factory=lambda: {"(": [], "[": []})
    """By kind of bracket, how many pieces there were when each open one was opened: crossed brackets keep apart."""

    def take(self, text: str, number: str | None) -> None:
        """Take the next token; `number` is the weight of one that closes a bracket with it."""
        if text in _OPENING:
            self.opened[text].append(len(self.pieces))
        elif number is not None and self.opened["("]:
            self._multiply(self.opened["("].pop(), float(number))
        elif text in _CLOSING and self.opened[_CLOSING[text][0]]:
            opening, factor = _CLOSING[text]
            self._multiply(self.opened[opening].pop(), factor)
        elif _BREAK.fullmatch(text):
            self.pieces.append(_Piece(None))
        else:
            self.pieces.append(_Piece(text[1] if _ESCAPED.fullmatch(text) else text))

    def end(self) -> bool:
        """Let open brackets count to the end. Return whether there were any."""
        for opening, factor in _CLOSING.values():
            for begin in self.opened[opening]:
                self._multiply(begin, factor)
        return any(self.opened.values())

    def _multiply(self, begin: int, factor: float) -> None:
        for piece in self.pieces[begin:]:
            piece.weight *= factor


def parse_weighted(prompt: str) -> WeightedPrompt:
    """Return the prompt's runs with their weights. Raise `PromptSyntaxError` for what changes over the steps."""
    _refuse_unsupported(prompt)
    reading, warnings = _Reading(), []
    for token in _TOKENS.finditer(prompt):
        reading.take(token[0], token["number"])
    if reading.end():
        warnings.append("A bracket in the prompt is not closed: it counts to the prompt's end.")
    if _COMMA_NUMBER.search(prompt):
        warnings.append("A weight in the prompt has a decimal comma and was read as text: write (x:1.3).")
    sections = tuple(_merged(section) for section in _sections(reading.pieces))
    return WeightedPrompt(sections or ((Run("", 1.0),),), tuple(warnings))


def clamped(prompt: WeightedPrompt) -> WeightedPrompt:
    """Return the prompt with its weights within 0 to `WEIGHT_MAX`, and a warning where one was not."""
    beyond = [run.weight for section in prompt.sections for run in section if not 0 <= run.weight <= WEIGHT_MAX]
    if not beyond:
        return prompt
    sections = [[Run(run.text, min(max(run.weight, 0.0), WEIGHT_MAX)) for run in part] for part in prompt.sections]
    warning = f"Weights in the prompt were clamped to 0 to {WEIGHT_MAX:g}; one was {max(beyond, key=abs):.3g}."
    return WeightedPrompt(tuple(tuple(section) for section in sections), (*prompt.warnings, warning))


def _sections(pieces: Sequence[_Piece]) -> Iterator[list[tuple[str, float]]]:
    """Yield what stands between BREAKs, without sections that have no words."""
    section: list[tuple[str, float]] = []
    for piece in [*pieces, _Piece(None)]:
        if piece.text is not None:
            section.append((piece.text, piece.weight))
        else:
            if any(text.strip() for text, _ in section):
                yield section
            section = []


def _merged(section: Sequence[tuple[str, float]]) -> tuple[Run, ...]:
    merged: list[Run] = []
    for text, weight in section:
        if merged and merged[-1].weight == weight:
            merged[-1] = Run(merged[-1].text + text, weight)
        else:
            merged.append(Run(text, weight))
    return tuple(merged)


def _refuse_unsupported(prompt: str) -> None:
    """Raise where a square bracket holds a schedule or alternatives, or AND composes prompts."""
    if _AND.search(prompt):
        raise PromptSyntaxError(
            "the prompt composes prompts with AND, which is not supported: write one prompt, or and in small letters"
        )
    opened: list[tuple[str, int]] = []
    escaped = False
    for at, letter in enumerate(prompt):
        if escaped:
            escaped = False
        elif letter == "\\":
            escaped = True
        elif letter in _OPENING:
            opened.append((letter, at))
        elif letter in _CLOSING and opened and opened[-1][0] == _CLOSING[letter][0]:
            _, begin = opened.pop()
            if letter == "]":
                _refuse_schedule(prompt[begin + 1 : at])


def _refuse_schedule(inside: str) -> None:
    """Raise where the text between square brackets is one that changes over the steps."""
    bare = _ESCAPED.sub("", inside)
    while (shorter := _INNERMOST.sub("", bare)) != bare:
        bare = shorter
    shown = inside if len(inside) <= _SHOWN_CHARACTERS_MAX else f"{inside[: _SHOWN_CHARACTERS_MAX - 3]}..."
    if "|" in bare:
        raise PromptSyntaxError(
            f"the prompt alternates between words with [{shown}], which is not supported: choose one, or escape the "
            "brackets as \\[ and \\]"
        )
    if _CHANGES.search(bare):
        raise PromptSyntaxError(
            f"the prompt changes over the steps with [{shown}], which is not supported: write a weight as (x:1.3), or "
            "escape the brackets as \\[ and \\]"
        )
