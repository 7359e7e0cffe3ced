"""Bytes to a JSON document, strictly and totally.

Python's parser takes what JSON forbids or leaves open: NaN and Infinity, a name twice in one object. Both are
flaws here, reported beside the document, since even a flawed document may say whose request it is. Whatever the
bytes are, `read_json` answers; nothing is raised.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from darkroom.schemas.errors import bounded

_NAME_CHARACTERS_MAX = 60


class Document(NamedTuple):
    """A JSON document that was read."""

    value: Any
    """The JSON value; None where there is none (or where it is null: look at `flaw`)."""
    flaw: str | None
    """What is wrong with the text, as the end of a sentence; None for sound JSON."""
    repeated: frozenset[str]
    """Names that stand twice in one object, so that their value is anyone's guess."""


class _FlawFoundError(Exception):
    """Leaves the quick parser, whose hooks keep no state, for the one that keeps a list."""


def _sound_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _FlawFoundError
    return members


def _no_constant(_name: str) -> None:
    raise _FlawFoundError


_quick = json.JSONDecoder(object_pairs_hook=_sound_object, parse_constant=_no_constant)


def read_json(text: bytes) -> Document:
    """Read UTF-8 JSON, a byte order mark in front allowed. Never raise."""
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        return Document(None, f"is not UTF-8 (byte {error.start})", frozenset())
    if decoded.startswith("\ufeff"):
        decoded = decoded[1:]
    try:
        return Document(_quick.decode(decoded), None, frozenset())
    except _FlawFoundError:
        return _read_flawed(decoded)
    except RecursionError:
        return Document(None, "is nested too deeply", frozenset())
    except json.JSONDecodeError as error:
        return Document(None, f"is not JSON ({error.msg} at character {error.pos})", frozenset())
    except ValueError:
        return Document(None, "has a whole number with too many digits", frozenset())


def _read_flawed(decoded: str) -> Document:
    """Read again what the quick parser gave up on, noting each flaw."""
    repeated: set[str] = set()
    constants: list[str] = []

    def keep_last(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                (repeated if name in seen else seen).add(name)
        return members

    decoder = json.JSONDecoder(object_pairs_hook=keep_last, parse_constant=constants.append)
    try:
        value = decoder.decode(decoded)
    except RecursionError:
        return Document(None, "is nested too deeply", frozenset())
    except ValueError:
        return Document(None, "is not JSON", frozenset())
    if constants:
        flaw = f"has {constants[0]}, which is not JSON"
    else:
        flaw = f"has the name '{bounded(min(repeated), _NAME_CHARACTERS_MAX)}' twice in one object"
    return Document(value, flaw, frozenset(repeated))
