"""Which prompts a deployment does not paint: a block list with categories and exceptions, and its version.

A policy is written as TOML:

    version = "2026-11"
    exceptions = ["scunthorpe", "dick van dyke"]
    classifier = "our_rules:classify"        # optional, see `darkroom.producer.policy.policy_file`
    on_classifier_error = "reject"           # or "allow"

    [[block]]
    category = "sexual"
    words = ["nude", "porn*", "bare all"]

A table `[pictures]` has finished pictures looked at (`darkroom.schemas.prompts.picture_rules`).
What counts as an entry's being in a prompt is told in `darkroom.schemas.prompts.wordmatch`. An exception excuses what
lies wholly within its own words, written plainly. Only the prompt is judged, never the negative prompt: that one names
what to stay away from, and whoever writes "nudity" there asks for the opposite.

A policy is no part of a request: neither its digest nor its picture depends on it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any, Final

from darkroom.schemas.errors import bounded
from darkroom.schemas.prompts.lookalikes import plain
from darkroom.schemas.prompts.picture_rules import CATEGORY_PATTERN, PictureRules, parse_picture_rules
from darkroom.schemas.prompts.wordmatch import WordMatcher, word_spans, words_of

POLICY_BYTES_MAX: Final = 1024 * 1024
ENTRIES_MAX: Final = 5_000
"""Block entries and exceptions, each. With entries of ten letters a prompt of 2,000 characters costs some ten ms."""
ENTRY_CHARACTERS_MAX: Final = 100
CATEGORIES_MAX: Final = 50
_CLASSIFIER: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_MEMBERS: Final = {"version", "exceptions", "classifier", "on_classifier_error", "block", "pictures"}


class PolicyUnreadable(ValueError):  # noqa: N818 - said of the file
    """A text that is no policy: one sentence of what is wrong in it."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a prompt is not painted. It never names the word: a list is not to be found out by trying."""

    category: str
    version: str

    def __str__(self) -> str:
        return f"The prompt is not allowed here: category {self.category}, policy version {self.version}."


class PromptPolicy:
    """A policy, made ready to judge. Immutable; safe to use from several threads."""

    def __init__(
        self,
        version: str,
        block: list[tuple[str, str]],
        exceptions: list[str],
        *,
        classifier: str | None = None,
        rejects_on_classifier_error: bool = True,
        pictures: PictureRules | None = None,
    ) -> None:
        """`block` holds an entry and its category each. Raises `ValueError` for an entry without words."""
        self.version = version
        self.classifier = classifier
        """`module:function`, where one is asked too."""
        self.rejects_on_classifier_error = rejects_on_classifier_error
        self.pictures = pictures
        """The rules for finished pictures, where there are any."""
        self._categories = [category for _, category in block]
        self._matcher = WordMatcher([entry for entry, _ in block])
        self._exceptions: dict[str, list[tuple[str, ...]]] = {}
        for exception in exceptions:
            words = words_of(exception)
            if not words:
                raise ValueError(f"the exception {exception!r} has no letters")
            self._exceptions.setdefault(words[0], []).append(words)

    def judge(self, prompt: str) -> Rejection | None:
        """Why the prompt is not painted; None where the block list has nothing against it."""
        text = plain(prompt)
        excused: list[tuple[int, dict[int, int]]] | None = None
        for hit in self._matcher.hits(text):
            if excused is None:
                excused = self._excused(text)
            entries = hit.entries
            for start, within in excused:
                entries &= ~within.get(hit.at - start, 0)
            if entries:
                return Rejection(self._categories[self._matcher.first(entries)], self.version)
        return None

    def _excused(self, text: str) -> list[tuple[int, dict[int, int]]]:
        """For each exception in the text: where it begins, and which entries end where within it, taken by itself."""
        spans = word_spans(text)
        words = [text[start:end] for start, end in spans]
        excused = []
        for index, (start, _) in enumerate(spans):
            for exception in self._exceptions.get(words[index], ()):
                if tuple(words[index : index + len(exception)]) == exception:
                    end = spans[index + len(exception) - 1][1]
                    excused.append((start, dict(self._matcher.hits(text[start:end]))))
        return excused


def parse_policy(text: str) -> PromptPolicy:
    """The policy that a TOML text says. Raises `PolicyUnreadable`."""
    try:
        members = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyUnreadable(f"it is not TOML: {error}") from error
    _known(members, _MEMBERS, "the policy")
    version = _text(members.get("version"), "version", characters_max=64)
    exceptions = _texts(members.get("exceptions", []), "exceptions")
    classifier = members.get("classifier")
    if classifier is not None and not (isinstance(classifier, str) and _CLASSIFIER.fullmatch(classifier)):
        raise PolicyUnreadable("classifier must be written module:function")
    on_error = members.get("on_classifier_error", "reject")
    if on_error not in ("allow", "reject"):
        raise PolicyUnreadable('on_classifier_error must be "allow" or "reject"')
    try:
        return PromptPolicy(
            version,
            _block(members.get("block", [])),
            exceptions,
            classifier=classifier,
            rejects_on_classifier_error=on_error == "reject",
            pictures=parse_picture_rules(members.get("pictures")),
        )
    except PolicyUnreadable:
        raise
    except ValueError as error:
        raise PolicyUnreadable(str(error)) from error


def _block(tables: Any) -> list[tuple[str, str]]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise PolicyUnreadable("block must be tables, each begun by [[block]]")
    block: list[tuple[str, str]] = []
    for number, table in enumerate(tables, 1):
        _known(table, {"category", "words"}, f"block {number}")
        category = table.get("category")
        if not isinstance(category, str) or not re.fullmatch(CATEGORY_PATTERN, category):
            raise PolicyUnreadable(f"block {number} must have a category of 1-40 of a-z0-9_, beginning with a letter")
        block += [(word, category) for word in _texts(table.get("words"), f"words of block {number}")]
    if len(block) > ENTRIES_MAX or len({category for _, category in block}) > CATEGORIES_MAX:
        raise PolicyUnreadable(f"it has more than {ENTRIES_MAX} words or {CATEGORIES_MAX} categories")
    for word, _ in block:
        if sum(len(one) for one in words_of(word)) < 2 and plain(word).isascii():
            raise PolicyUnreadable(f"the word {bounded(word)!r} has fewer than two letters, and would block everything")
    return block


def _known(table: dict[str, Any], names: set[str], where: str) -> None:
    if unknown := sorted(table.keys() - names):
        raise PolicyUnreadable(f"{where} has no {bounded(unknown[0])}; it may have {', '.join(sorted(names))}")


def _texts(value: Any, name: str) -> list[str]:
    if not isinstance(value, list) or len(value) > ENTRIES_MAX:
        raise PolicyUnreadable(f"{name} must be a list of at most {ENTRIES_MAX}")
    return [_text(one, name, characters_max=ENTRY_CHARACTERS_MAX) for one in value]


def _text(value: Any, name: str, *, characters_max: int) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= characters_max or not value.isprintable():
        raise PolicyUnreadable(f"{name} must be text of 1-{characters_max} printable characters")
    return value
