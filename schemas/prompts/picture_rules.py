"""The `[pictures]` table of a policy: who looks at the finished pictures, and what becomes of those with a category.

    [pictures]
    classifier = "our_rules:classify"         # or url = "http://classifier/", or safety_checker = "/models/safety"
    block = ["sexual", "violence"]            # left out: every category
    mode = "required"                         # or "best_effort"

A category that is not blocked is told in the completion's `flagged`, and the picture is stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

CATEGORY_PATTERN: Final = r"[a-z][a-z0-9_]{0,39}"
"""Categories are values of a metric's label, and told to whoever sent the request."""
BLOCKED_MAX: Final = 50
PATH_CHARACTERS_MAX: Final = 1024
_SOURCES: Final = ("classifier", "url", "safety_checker")
_MEMBERS: Final = {*_SOURCES, "block", "mode"}
_FUNCTION: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_ENTRY_POINT: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")


@dataclass(frozen=True, slots=True)
class PictureRules:
    """Who judges pictures, and what follows. Exactly one of the first three is set."""

    classifier: str | None = None
    """`module:function`, or the name of an entry point of the group `darkroom.picture_classifiers`."""
    url: str | None = None
    """A service that is sent each picture."""
    safety_checker: str | None = None
    """A folder with the weights of a StableDiffusionSafetyChecker, as diffusers saves it."""
    block: frozenset[str] | None = None
    """The categories whose pictures are not stored; None for all."""
    is_required: bool = True
    """No picture is stored that nobody looked at."""

    @property
    def source(self) -> tuple[str | None, str | None, str | None]:
        """Return what decides which classifier it is."""
        return self.classifier, self.url, self.safety_checker

    def blocks(self, category: str) -> bool:
        """Return whether pictures of a category are not stored."""
        return self.block is None or category in self.block


def parse_picture_rules(table: Any) -> PictureRules | None:
    """Return the rules of a `[pictures]` table; None without one. Raises `ValueError`, a sentence of what is wrong."""
    if table is None:
        return None
    if not isinstance(table, dict):
        raise ValueError("pictures must be a table, begun by [pictures]")  # noqa: TRY004 - said of the file
    if unknown := sorted(table.keys() - _MEMBERS):
        raise ValueError(f"pictures has no {unknown[0][:100]}; it may have {', '.join(sorted(_MEMBERS))}")
    given = [name for name in _SOURCES if name in table]
    if len(given) != 1:
        raise ValueError(f"pictures must have one of {', '.join(_SOURCES)}")
    _check_source(given[0], table[given[0]])
    mode = table.get("mode", "required")
    if mode not in ("required", "best_effort"):
        raise ValueError('mode of pictures must be "required" or "best_effort"')
    return PictureRules(
        **{given[0]: table[given[0]]},
        block=_blocked(table["block"]) if "block" in table else None,
        is_required=mode == "required",
    )


def _check_source(name: str, value: Any) -> None:
    if not isinstance(value, str) or not value.isprintable() or not 1 <= len(value) <= PATH_CHARACTERS_MAX:
        raise ValueError(f"{name} of pictures must be text of 1-{PATH_CHARACTERS_MAX} printable characters")
    if name == "classifier" and not (_FUNCTION.fullmatch(value) or _ENTRY_POINT.fullmatch(value)):
        raise ValueError("classifier of pictures must be written module:function, or name an entry point")
    if name == "url":
        try:
            parts = urlsplit(value)
            is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_usable = False
        if not is_usable:
            raise ValueError("url of pictures must be an address that begins with http:// or https://")


def _blocked(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or len(value) > BLOCKED_MAX:
        raise ValueError(f"block of pictures must be a list of at most {BLOCKED_MAX} categories")
    for one in value:
        if not isinstance(one, str) or not re.fullmatch(CATEGORY_PATTERN, one):
            raise ValueError("block of pictures must list categories of 1-40 of a-z0-9_, beginning with a letter")
    return frozenset(value)
