"""Defines what a picture can show, and the caption that describes it.

A scene is a handful of words, and a small grammar builds its caption from them, so that a painted picture can be
compared with its caption by measurement.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

Colour = tuple[int, int, int]

COLOURS: Final[dict[str, Colour]] = {
    "red": (212, 36, 36),
    "orange": (246, 136, 24),
    "yellow": (247, 222, 52),
    "green": (40, 158, 66),
    "blue": (30, 84, 222),
    "purple": (122, 44, 176),
    "pink": (252, 152, 192),
    "white": (248, 248, 248),
    "black": (22, 22, 26),
    "grey": (130, 134, 140),
}
"""Ten colours that remain distinguishable when a small model blurs them."""
STYLES: Final = ("flat", "outline", "watercolour")
SETTINGS: Final = ("plain", "ground", "fading", "sun", "hill")
"""Settings; all but `plain` have a second colour."""
NUMBERS: Final = ("a", "two", "three")
_NOUNS: Final = (("figure", "figures"), ("person", "people"), ("dancer", "dancers"))
_LEGWEAR: Final = ("trousers", "jeans")
_SLIM_BELOW: Final = 0.85
_STURDY_ABOVE: Final = 1.15


@dataclass(frozen=True, slots=True)
class Look:
    """Everything about a scene except its people and their poses."""

    figure: str
    """The colour of heads, torsos and arms."""
    trousers: str
    background: str
    style: str = "flat"
    setting: str = "plain"
    second: str = "white"
    """The setting's second colour: of the ground, the fading background's other end, the sun or the hill."""
    build: float = 1.0
    """The thickness of limbs, as a factor."""


def random_look(dice: random.Random, *, plain: bool = False) -> Look:
    """Generate a look whose figure contrasts with everything behind it. `plain`: without a setting."""
    background = dice.choice(list(COLOURS))
    setting = "plain" if plain or dice.random() < 0.7 else dice.choice(SETTINGS[1:])
    second = dice.choice([name for name in COLOURS if name != background])
    behind = {background} if setting == "plain" else {background, second}
    clothes = [name for name in COLOURS if name not in behind]
    figure = dice.choice(clothes)
    # One colour from head to foot is rare, because it does not teach which word belongs to which part.
    trousers = figure if dice.random() < 0.05 else dice.choice([name for name in clothes if name != figure])
    style = dice.choices(STYLES, (0.5, 0.25, 0.25))[0]
    return Look(figure, trousers, background, style, setting, second, build=dice.uniform(0.72, 1.3))


def caption(look: Look, people: int, dice: random.Random) -> str:
    """Return one of the captions that describe `look` with this number of people (1 to 3)."""
    noun = dice.choices(_NOUNS, (0.7, 0.15, 0.15))[0][0 if people == 1 else 1]
    subject = _counted(people, " ".join([*_build_word(look, dice), look.figure, noun]))
    legwear = dice.choices(_LEGWEAR, (0.85, 0.15))[0]
    style = look.style if look.style != "flat" or dice.random() < 0.3 else ""
    sentence = f"{subject} with {look.trousers} {legwear} {_place(look)}"
    return f"{sentence}, {style}" if style else sentence


def plain_caption(look: Look, people: int = 1) -> str:
    """Return the shortest complete caption, always the same one."""
    noun = _NOUNS[0][0 if people == 1 else 1]
    sentence = f"{_counted(people, f'{look.figure} {noun}')} with {look.trousers} trousers {_place(look)}"
    return sentence if look.style == "flat" else f"{sentence}, {look.style}"


def words() -> tuple[str, ...]:
    """Return every word and mark that a caption can have, in a fixed order."""
    nouns = [noun for pair in _NOUNS for noun in pair]
    others = (
        "an",
        "slim",
        "sturdy",
        "with",
        "on",
        "background",
        "ground",
        "under",
        "sky",
        "that",
        "fades",
        "to",
        "sun",
        "hill",
        ",",
    )
    return tuple(dict.fromkeys([*COLOURS, *STYLES, *NUMBERS, *nouns, *_LEGWEAR, *others]))


def _build_word(look: Look, dice: random.Random) -> list[str]:
    if dice.random() < 0.5:
        return []
    if look.build < _SLIM_BELOW:
        return ["slim"]
    return ["sturdy"] if look.build > _STURDY_ABOVE else []


def _place(look: Look) -> str:
    first, second = look.background, look.second
    return {
        "plain": f"on {_a(first)} background",
        "ground": f"on {_a(second)} ground under {_a(first)} sky",
        "fading": f"on {_a(first)} background that fades to {second}",
        "sun": f"on {_a(first)} background with {_a(second)} sun",
        "hill": f"on {_a(first)} background with {_a(second)} hill",
    }[look.setting]


def _counted(people: int, subject: str) -> str:
    return _a(subject) if people == 1 else f"{NUMBERS[people - 1]} {subject}"


def _a(subject: str) -> str:
    return f"{'an' if subject[0] in 'aeiou' else 'a'} {subject}"
