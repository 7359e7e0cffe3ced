"""Finds words and phrases in a text, however they were dressed up, in one pass over it.

The text is in its plain form (`darkroom.schemas.prompts.lookalikes`). An entry is found as whole words, where

- letters may be repeated (`nuuude`), and digits and signs may stand for letters (`nud3`, but never for all of them: 455
  is a number);
- a word may be broken by signs (`nu-de`, `nu.de`), and by anything when its pieces are single letters (`n u d e`, `n
  ude`). Spaces between longer pieces break a word for good, or `the pen is mightier` would hold another;
- the words of a phrase may have anything between them that is no letter, or nothing.

How: all entries lie side by side in one whole number, a bit for each letter, and a bit is set while the text so
far can be that entry up to that letter (Shift-And, Baeza-Yates and Gonnet 1992). A character costs a few operations on
that number, so time is linear in the text and there is nothing to backtrack into.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from darkroom.schemas.prompts.lookalikes import plain, readings

_SENTENCE: Final = frozenset(',;:?()[]{}"“”„«»<>—–、。')
"""Signs that stand between words, not within them."""
_APOSTROPHES: Final = frozenset("'’ʼ`")
_CLITICS: Final = frozenset({"ll", "s", "t", "re", "ve", "d", "m"})
"""What English puts behind an apostrophe: it neither begins a word nor continues one."""
_UNSPACED: Final = ((0x0E00, 0x0EFF), (0x1100, 0x11FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0x20000, 0x323AF))
"""Scripts whose words have no space between them, or endings attached: every character can begin or end a word."""


class Hit(NamedTuple):
    """Entries that end at a character of the text."""

    at: int
    """The character's index."""
    entries: int
    """A bit for each, for `WordMatcher.first`."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of letters, digits and signs that may be letters."""

    start: int
    end: int
    text: str
    starts_word: bool
    is_single: bool
    """One letter, perhaps repeated."""
    has_letter: bool
    is_simple: bool
    """Latin letters alone."""


class _States(NamedTuple):
    """What the text so far may be, a bit for each letter of each entry."""

    alive: int
    real: int
    """Those of them in which some letter stood for itself."""


_NONE: Final = _States(0, 0)


class WordMatcher:
    """Entries, made ready to be looked for.

    An entry is words; a `*` before it lets it begin within a word, one behind it lets it end within one.
    Raises `ValueError` for an entry without words.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        self._letters: dict[str, int] = {}
        self._gaps = self._after_gaps = self._firsts = self._free_firsts = self._lasts = self._free_lasts = 0
        self._entry_of: dict[int, int] = {}
        position = 0
        for number, entry in enumerate(entries):
            position = self._add(number, entry, position)

    def _add(self, number: int, entry: str, position: int) -> int:
        words = words_of(entry)
        if not words:
            raise ValueError(f"the entry {entry!r} has no letters")
        self._firsts |= 1 << position
        if entry.startswith("*"):
            self._free_firsts |= 1 << position
        for index, word in enumerate(words):
            if index:
                self._gaps |= 1 << position
                self._after_gaps |= 1 << (position + 1)
                position += 1
            for letter in word:
                self._letters[letter] = self._letters.get(letter, 0) | (1 << position)
                position += 1
        last = 1 << (position - 1)
        self._lasts |= last
        if entry.endswith("*"):
            self._free_lasts |= last
        self._entry_of[position - 1] = number
        return position

    def first(self, entries: int) -> int:
        """The number of the first entry among those of a hit."""
        return self._entry_of[(entries & -entries).bit_length() - 1]

    def hits(self, text: str) -> Iterator[Hit]:
        """Every place where entries end, in a text in its plain form."""
        states = _NONE
        before: _Piece | None = None
        for piece in _pieces(text):
            if before is not None and states is not _NONE:
                bridged = _bridges(text[before.end : piece.start], before, piece)
                states = _States(self._separated(states.alive, bridged), self._separated(states.real, bridged))
            if piece.is_simple:
                states = yield from self._simple(piece, states)
            else:
                states = yield from self._any(text, piece, states)
            before = piece

    def _simple(self, piece: _Piece, states: _States) -> Generator[Hit, None, _States]:
        """Read Latin letters alone: a word begins where they begin and ends where they end."""
        alive, letters = states.alive, self._letters
        firsts = self._firsts if piece.starts_word else self._free_firsts
        for index, character in enumerate(piece.text, piece.start):
            alive = self._read(alive, letters.get(character, 0), firsts)
            firsts = self._free_firsts
            if not alive and not firsts:
                return _NONE
            if found := alive & (self._lasts if index + 1 == piece.end else self._free_lasts):
                yield Hit(index, found)
        return _States(alive, alive)

    def _any(self, text: str, piece: _Piece, states: _States) -> Generator[Hit, None, _States]:
        """Read a piece that has digits, signs or letters of other scripts."""
        alive, real = states
        for index, character in enumerate(piece.text, piece.start):
            firsts = self._firsts if _begins(text, index, piece) else self._free_firsts
            lasts = self._lasts if _ends(text, index) else self._free_lasts
            itself = self._letters.get(character, 0)
            if stands_for := readings(character):
                may_be = itself
                for letter in stands_for:
                    may_be |= self._letters.get(letter, 0)
                read = self._read(alive, may_be, firsts)
                read_real = self._read(real, may_be, 0) | (read & itself)
                passed = index > piece.start and piece.has_letter
                alive, real = read | self._separated(alive, passed), read_real | self._separated(real, passed)
            else:
                alive = real = read_real = self._read(alive, itself, firsts)
            if found := read_real & lasts:
                yield Hit(index, found)
        return _States(alive, real)

    def _read(self, states: int, letters: int, firsts: int) -> int:
        """The states behind a letter: the next one, the one behind a gap that is left out, or the same repeated."""
        onward = (states << 1) & ~self._firsts
        return (onward | firsts | ((states << 2) & self._after_gaps) | states) & letters

    def _separated(self, states: int, bridged: bool) -> int:
        """The states behind what is no letter: in the gap of a phrase; where they were, if a word goes on behind it."""
        return ((states << 1 | states) & self._gaps) | (states if bridged else 0)


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text in their plain form."""
    text = plain(text)
    return tuple(text[start:end] for start, end in word_spans(text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each run of letters, digits and signs that may be letters begins and ends."""
    spans, index = [], 0
    for is_word, run in groupby(text, _may_be_letter):
        length = len(list(run))
        if is_word:
            spans.append((index, index + length))
        index += length
    return spans


def _may_be_letter(character: str) -> bool:
    return character.isalnum() or bool(readings(character))


def _pieces(text: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    for start, end in word_spans(text):
        run = text[start:end]
        letters = {one for one in run if not readings(one)}
        clitic = bool(pieces) and _is_clitic(text, pieces[-1], start, end)
        # The end of a sentence is no second letter.
        is_single = len(letters) == 1 or (not letters and len(set(run.rstrip("!") or run)) == 1)
        pieces.append(_Piece(start, end, run, not clitic, is_single, bool(letters), run.isascii() and run.isalpha()))
    return pieces


def _is_clitic(text: str, before: _Piece, start: int, end: int) -> bool:
    """Whether this is the end of a form like `he'll`: behind a word, and not in the middle of `t'i't's`."""
    if start - before.end != 1 or text[before.end] not in _APOSTROPHES or text[start:end] not in _CLITICS:
        return False
    if text[end : end + 1] in _APOSTROPHES:
        return False
    return not before.is_single or (before.text == "i" and text[before.start - 1 : before.start].strip() == "")


def _bridges(separator: str, before: _Piece, after: _Piece) -> bool:
    """Whether a word may go on behind what separates two pieces."""
    if not after.starts_word:
        return False
    if not any(one.isspace() or one in _SENTENCE for one in separator):
        return True
    if before.is_single and after.is_single:
        return True
    return any(piece.is_single and piece.has_letter for piece in (before, after))


def _begins(text: str, index: int, piece: _Piece) -> bool:
    """Whether a word can begin with this character."""
    if index == piece.start:
        return piece.starts_word
    return bool(readings(text[index - 1])) or _unspaced(text[index - 1]) or _unspaced(text[index])


def _ends(text: str, index: int) -> bool:
    """Whether a word can end with this character."""
    if index + 1 == len(text):
        return True
    after = text[index + 1]
    return not after.isalnum() or bool(readings(after)) or _unspaced(after) or _unspaced(text[index])


def _unspaced(character: str) -> bool:
    return character > "\u0dff" and any(low <= ord(character) <= high for low, high in _UNSPACED)
