"""Reduces a text to what a reader sees: one plain form for letters that were dressed up.

`plain` folds case, accents, invisible characters, full width and styled alphabets, and letters of other scripts that
look Latin. It is idempotent. What stands for more than one letter, a 1 for an i or an l, is left as it is: `readings`
tells what it may stand for, and whoever compares tries them all.
"""

from __future__ import annotations

import unicodedata
from typing import Final

_INVISIBLE: Final = frozenset({"Mn", "Me", "Cf", "Cn", "Co", "Cs"})
"""Categories that are left out: marks on letters, format characters such as zero-width spaces, and what is nothing."""
_ALSO_INVISIBLE: Final = "\u115f\u1160\u3164\u2800"
"""Letters and signs that show as nothing: Hangul fillers and the empty Braille pattern."""
_REMEMBERED_MAX: Final = 8192
"""Characters whose folding is kept; every language's everyday letters fit, all of Unicode does not."""

_LOOKS_LIKE: Final[dict[str, str]] = {
    # Cyrillic, lower case: what Latin letter it looks like, not what it sounds like.
    "аɑα": "a", "ьвϐβƅ": "b", "сᴄɔ": "c", "ԁɗđ": "d", "еєҽəεɛ": "e", "ғƒ": "f", "ɡցǥ": "g", "һнħηհ": "h",
    "іιıɩɪ": "i", "јϳ": "j", "кκқҝ": "k", "ӏłƚ": "l", "мϻ": "m", "пոռŋ": "n", "оοσөøօ": "o", "рρþ": "p",
    "ԛզ": "q", "гꭇ": "r", "ѕʂ": "s", "тτŧ": "t", "υսцʋμ": "u", "ѵν": "v", "ԝшωѡա": "w", "хχ×": "x", "уүγ": "y",
    "ʐƶ": "z",
    # Small capitals.
    "ᴀ": "a", "ʙ": "b", "ᴅ": "d", "ᴇ": "e", "ꜰ": "f", "ɢ": "g", "ʜ": "h", "ᴊ": "j", "ᴋ": "k", "ʟ": "l", "ᴍ": "m",
    "ɴ": "n", "ᴏ": "o", "ᴘ": "p", "ꞯ": "q", "ʀ": "r", "ꜱ": "s", "ᴛ": "t", "ᴜ": "u", "ᴠ": "v", "ᴡ": "w", "ʏ": "y",
    "ᴢ": "z",
    # Letters of two.
    "æ": "ae", "œ": "oe",
}  # fmt: skip
_ALPHABETS: Final = (0x1F130, 0x1F150, 0x1F170, 0x1F1E6)
"""Where squared, circled and flag letters begin, A to Z: Unicode gives most of them no plain form."""
_READINGS: Final[dict[str, str]] = {
    "0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "bg", "7": "t", "8": "b", "9": "gq",
    "@": "a", "$": "s", "!": "il", "|": "il", "€": "e", "£": "l", "¡": "i", "+": "t", "§": "s", "¢": "c",
}  # fmt: skip
"""What a digit or a sign may stand for, as in `pr0n`. Each of them can also simply be what it is."""


def _table() -> dict[int, str]:
    table = {ord(one): letters for some, letters in _LOOKS_LIKE.items() for one in some}
    for begin in _ALPHABETS:
        table |= {begin + number: chr(ord("a") + number) for number in range(26)}
    return table


class _Folding(dict[int, str]):
    """For `str.translate`: what a character becomes, after case and compatibility forms are folded."""

    def __missing__(self, code: int) -> str:
        one = chr(code)
        folded = "" if unicodedata.category(one) in _INVISIBLE or one in _ALSO_INVISIBLE else one
        if len(self) < _REMEMBERED_MAX:
            self[code] = folded
        return folded


_FOLDING: Final = _Folding(_table())


def plain(text: str) -> str:
    """The plain form. Idempotent; at most 18 times as long, since that is what a character may decompose into."""
    if text.isascii():
        return text.lower().translate(_FOLDING)
    decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return unicodedata.normalize("NFKD", decomposed.translate(_FOLDING))


def readings(character: str) -> str:
    """The letters that a character of a plain text may stand for besides itself; empty for letters."""
    return _READINGS.get(character, "")
