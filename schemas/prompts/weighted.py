"""Weighted prompts: `(x)`, `(x:1.3)`, `[x]`, escapes and BREAK, as the field's tools write them. Pure.

The tools disagree. The rules here are those of Stable Diffusion web UI (A1111) unless stated:

- `(x)` multiplies the weight by 1.1, `[x]` divides it by 1.1, `(x:1.3)` multiplies it by 1.3; nested ones multiply.
- `\\(`, `\\)`, `\\[`, `\\]` and `\\\\` stand for the character. Any other backslash stays (A1111 drops it).
- A bracket that nobody closes counts to the end of the prompt. A closing one that nobody opened is text.
- A number is plain decimals; `(x:)` and `(x:1,3)` are `x:` and `x:1,3` at 1.1.
- BREAK, in capitals, begins a new chunk, inside of brackets, too (A1111 makes it a word there). Leading, trailing and
  doubled ones add nothing (A1111 makes empty chunks of them).
- Prompts that change over the steps (`[a:b:0.5]`, `[a:0.5]`, `[a|b]`) and composed ones (`a AND b`) are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

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
_CHANGES = re.compile(r":\s*[+-]?(?:\d+(?:\.\d*)?|\.\d+)\s*$")
_COMMA_NUMBER = re.compile(r":\s*\d+,\d+\s*\)")
_BREAK = re.compile(r"\s*\bBREAK\b\s*")
_AND = re.compile(r"(?:^|\s)AND(?:\s|$)")


class PromptSyntaxError(ValueError):
    """A construct that is understood and not supported. Its text names the construct and the way out."""


@dataclass(frozen=True, slots=True)
class Run:
    """Text of one weight."""

    text: str
    weight: float


@dataclass(frozen=True, slots=True)
class WeightedPrompt:
    """A parsed prompt: by section between BREAKs its runs. Always at least one section."""

    sections: tuple[tuple[Run, ...], ...]
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The words alone, for logs."""
        return " ".join("".join(run.text for run in section) for section in self.sections)


@dataclass(slots=True)
class _Reading:
    runs: list[list[object]] = field(default_factory=list)
    """[text, weight] or [None, 0] for a break."""
    round_at: list[int] = field(default_factory=list)
    square_at: list[int] = field(default_factory=list)

    def multiply(self, begin: int, factor: float) -> None:
        for run in self.runs[begin:]:
            if run[0] is not None:
                run[1] = float(run[1]) * factor  # type: ignore[arg-type]

    def add(self, text: str) -> None:
        self.runs.append([text, 1.0])


def parse_weighted(prompt: str) -> WeightedPrompt:
    """Return the prompt's runs with their weights. Raise `PromptSyntaxError` for what changes over the steps."""
    _refuse_unsupported(prompt)
    reading, warnings = _Reading(), []
    for token in _TOKENS.finditer(prompt):
        text = token[0]
        if text.startswith("\\") and len(text) == 2:
            reading.add(text[1])
        elif text == "(":
            reading.round_at.append(len(reading.runs))
        elif text == "[":
            reading.square_at.append(len(reading.runs))
        elif token["number"] is not None and reading.round_at:
            reading.multiply(reading.round_at.pop(), float(token["number"]))
        elif text == ")" and reading.round_at:
            reading.multiply(reading.round_at.pop(), ROUND)
        elif text == "]" and reading.square_at:
            reading.multiply(reading.square_at.pop(), SQUARE)
        elif _BREAK.fullmatch(text):
            reading.runs.append([None, 0.0])
        else:
            reading.add(text)
    if reading.round_at or reading.square_at:
        warnings.append("A bracket in the prompt is not closed: it counts to the prompt's end.")
    for begin in reading.round_at:
        reading.multiply(begin, ROUND)
    for begin in reading.square_at:
        reading.multiply(begin, SQUARE)
    if _COMMA_NUMBER.search(prompt):
        warnings.append("A weight in the prompt has a decimal comma and was read as text: write (x:1.3).")
    sections = tuple(_merged(section) for section in _sections(reading.runs))
    return WeightedPrompt(sections or ((Run("", 1.0),),), tuple(warnings))


def clamped(prompt: WeightedPrompt) -> WeightedPrompt:
    """Return the prompt with its weights within 0 to `WEIGHT_MAX`, and a warning where one was not."""
    beyond = [run.weight for section in prompt.sections for run in section if not 0 <= run.weight <= WEIGHT_MAX]
    if not beyond:
        return prompt
    worst = max(beyond, key=abs)
    return WeightedPrompt(
        tuple(
            tuple(Run(run.text, min(max(run.weight, 0.0), WEIGHT_MAX)) for run in section)
            for section in prompt.sections
        ),
        (*prompt.warnings, f"Weights in the prompt were clamped to 0 to {WEIGHT_MAX:g}; one was {worst:.3g}."),
    )


def _sections(runs: list[list[object]]) -> Iterator[list[list[object]]]:
    section: list[list[object]] = []
    for run in [*runs, [None, 0.0]]:
        if run[0] is not None:
            section.append(run)
        elif any(str(one[0]).strip() for one in section):
            yield section
            section = []
        else:
            section = []


def _merged(section: list[list[object]]) -> tuple[Run, ...]:
    merged: list[Run] = []
    for text, weight in section:
        assert isinstance(text, str)
        assert isinstance(weight, float)
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
    opened: list[int] = []
    depth_round = 0
    kinds: list[Literal["(", "["]] = []
    at = 0
    while at < len(prompt):
        letter = prompt[at]
        if letter == "\\":
            at += 2
            continue
        if letter == "[":
            opened.append(at)
            kinds.append("[")
        elif letter == "(":
            kinds.append("(")
            depth_round += 1
        elif letter == ")" and "(" in kinds:
            while kinds and kinds.pop() != "(":
                opened.pop()
        elif letter == "]" and kinds and kinds[-1] == "[":
            kinds.pop()
            _refuse_schedule(prompt[opened.pop() + 1 : at])
        at += 1


def _refuse_schedule(inside: str) -> None:
    """Raise where the text between square brackets is one that changes over the steps."""
    bare = _without_inner(inside)
    shown = inside if len(inside) <= 40 else inside[:37] + "..."
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


def _without_inner(inside: str) -> str:
    """Return the text without what stands in inner brackets."""
    kept, depth, at = [], 0, 0
    while at < len(inside):
        if inside[at] == "\\":
            at += 2
            continue
        if inside[at] in "([":
            depth += 1
        elif inside[at] in ")]":
            depth = max(0, depth - 1)
        elif depth == 0:
            kept.append(inside[at])
        at += 1
    return "".join(kept)
