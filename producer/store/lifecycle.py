"""A bucket's lifecycle document, edited as text: our rule comes or changes, every other byte stays.

A model of the document would drop what it does not know (minio-py 7.2.20: a rule's own `<Prefix>`, size filters, all
transitions but the first), and the rule written back would remove more than its owner asked for. So the document is
only looked through, for where each rule begins and ends. The format: Amazon S3 API, `PutBucketLifecycleConfiguration`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree
from xml.parsers import expat
from xml.sax.saxutils import escape

RETENTION_RULE: Final = "darkroom-retention"
"""The id of our rule. Where a rule of another scope has it, ours ends in its own scope."""
DOCUMENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""S3 takes 1,000 rules; each may name ten tags of 384 characters."""
_ROOT: Final = "LifecycleConfiguration"
_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_WIDE: Final = (b"\xfe\xff", b"\xff\xfe", b"\x00", b"<\x00")
"""How a document of two or four bytes a character begins: offsets into it would not be offsets of its text."""
_DECLARED: Final = re.compile(rb"""^\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_PLAIN: Final = frozenset({"ID", "Status", "Prefix", "Filter", "Filter/Prefix", "Expiration", "Expiration/Days"})


class LifecycleUnreadable(Exception):  # noqa: N818 - named for what happened
    """Raised where the store's lifecycle document cannot be edited without a risk to it."""


@dataclass(slots=True)
class LifecycleRule:
    """One rule, and where it stands in the document."""

    start: int
    end: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    """The text of each element below the rule, by its path without namespaces: `Filter/Prefix`."""

    @property
    def id(self) -> str:
        """Empty where it has none."""
        return self.texts.get("ID", "")

    @property
    def is_enabled(self) -> bool:
        """Return whether the store acts on the rule."""
        return self.texts.get("Status") == "Enabled"

    @property
    def is_old_style(self) -> bool:
        """Return whether the rule names its prefix itself, without a filter. S3 refuses a mix of both ways."""
        return "Prefix" in self.texts

    @property
    def scope(self) -> str | None:
        """The prefix of the objects that it is about, empty for all; None where tags or sizes narrow it further."""
        narrowing = [
            path for path in self.texts if path.startswith("Filter/") and path not in ("Filter/Prefix", "Filter/And")
        ]
        if narrowing:
            return None
        return self.texts.get("Filter/Prefix", self.texts.get("Prefix", ""))

    @property
    def days(self) -> int | None:
        """After how many days it removes objects; None where it does not, or does more than that."""
        text = self.texts.get("Expiration/Days", "")
        return int(text) if text.isascii() and text.isdigit() and self.texts.keys() <= _PLAIN else None


@dataclass(frozen=True, slots=True)
class LifecycleDocument:
    """A document as the store gave it."""

    content: bytes
    root: str
    """The root's name as it is written, with its namespace prefix."""
    rules: tuple[LifecycleRule, ...]

    def retention_rule(self, prefix: str) -> LifecycleRule | None:
        """Our rule for the objects below `prefix`; None where there is none."""
        return next((rule for rule in self.rules if rule.id in _ids(prefix) and rule.scope == prefix), None)

    def expiring(self, prefix: str) -> LifecycleRule | None:
        """A rule of anybody's by which everything below `prefix` leaves in the end; None where there is none."""
        for rule in self.rules:
            removes = rule.texts.get("Expiration/Days") or rule.texts.get("Expiration/Date")
            if rule.is_enabled and removes and rule.scope is not None and prefix.startswith(rule.scope):
                return rule
        return None

    def with_retention(self, prefix: str, days: int) -> bytes:
        """The document with our rule in it, new or in the place of the one before.

        Raises `LifecycleUnreadable` where other rules have every id that ours could have.
        """
        ours = self.retention_rule(prefix)
        others = [rule for rule in self.rules if rule is not ours]
        taken = {rule.id for rule in others}
        rule_id = next((one for one in (*([ours.id] if ours else []), *_ids(prefix)) if one not in taken), None)
        if rule_id is None:
            raise LifecycleUnreadable(f"other rules have the ids {' and '.join(_ids(prefix))}")
        if not others:
            return _document(_rule(rule_id, prefix, days, qualifier="", is_old_style=False))
        is_old_style = any(rule.is_old_style for rule in others) and not any("Filter" in one.texts for one in others)
        qualifier = self.root[: -len(_ROOT)]
        rule = _rule(rule_id, prefix, days, qualifier=qualifier, is_old_style=is_old_style)
        start, end = (ours.start, ours.end) if ours else (self.rules[-1].end, self.rules[-1].end)
        return self.content[:start] + rule + self.content[end:]

    def others(self, prefix: str) -> list[str]:
        """Every rule but ours in the canonical form of XML, to compare documents that a server has written anew."""
        ours = self.retention_rule(prefix)
        elements = [one for one in ElementTree.fromstring(self.content) if _local(one.tag) == "Rule"]  # noqa: S314 - read before
        return sorted(
            ElementTree.canonicalize(ElementTree.tostring(element, encoding="unicode"), strip_text=True)
            for element, rule in zip(elements, self.rules, strict=True)
            if rule is not ours
        )


NO_RULES: Final = LifecycleDocument(b"", _ROOT, ())
"""What a bucket without a lifecycle document has."""


def read_lifecycle(content: bytes) -> LifecycleDocument:
    """Return the document with where its rules stand. Raise `LifecycleUnreadable`."""
    declared = _DECLARED.match(content)
    encoding = "utf-8" if declared is None else declared[1].decode().lower()
    if len(content) > DOCUMENT_BYTES_MAX:
        raise LifecycleUnreadable(f"it has more than {DOCUMENT_BYTES_MAX} bytes")
    if content.startswith(_WIDE) or encoding not in ("utf-8", "us-ascii", "ascii"):
        raise LifecycleUnreadable("it is not in UTF-8")
    looking = _Looking(content)
    try:
        looking.parse()
    except expat.ExpatError as error:
        raise LifecycleUnreadable(f"it is no XML ({error})") from error
    return LifecycleDocument(content, looking.root, tuple(looking.rules))


class _Looking:
    """One pass over a document."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._path: list[str] = []
        self.root = ""
        self.rules: list[LifecycleRule] = []

    def parse(self) -> None:
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = self._doctype
        self._parser.Parse(self._content, True)

    def _doctype(self, *_: object) -> None:
        raise LifecycleUnreadable("it declares a document type, which no lifecycle document has")

    def _start(self, name: str, _: object) -> None:
        local = _local(name)
        if not self._path:
            if local != _ROOT:
                raise LifecycleUnreadable(f"it is a {local[:40]}, not a {_ROOT}")
            self.root = name
        elif len(self._path) == 1 and local == "Rule":
            self.rules.append(LifecycleRule(self._parser.CurrentByteIndex))
        self._path.append(local)
        if len(self._path) > 2 and self._path[1] == "Rule":
            self.rules[-1].texts.setdefault("/".join(_within(self._path)), "")

    def _text(self, text: str) -> None:
        if len(self._path) > 2 and self._path[1] == "Rule":
            path = "/".join(_within(self._path))
            self.rules[-1].texts[path] = self.rules[-1].texts.get(path, "") + text

    def _end(self, _: str) -> None:
        if len(self._path) == 2 and self._path[1] == "Rule":
            rule = self.rules[-1]
            at = self._parser.CurrentByteIndex
            if not rule.texts:  # then `at` is not where an end tag begins
                raise LifecycleUnreadable("it has a rule without content")
            rule.end = self._content.index(b">", at) + 1
            rule.texts = {path: text.strip() if path != "Filter/Prefix" else text for path, text in rule.texts.items()}
        self._path.pop()


def _within(path: list[str]) -> Iterator[str]:
    """The path below the rule. What several conditions are joined in (`And`) is left out, as its prefix is one."""
    below = path[2:]
    joined = below[:2] == ["Filter", "And"] and len(below) > 2
    return iter([below[0], *below[2:]] if joined else below)


def _ids(prefix: str) -> tuple[str, str]:
    return RETENTION_RULE, f"{RETENTION_RULE}-{prefix.rstrip('/') or 'all'}"


def _local(name: str) -> str:
    return name.rpartition("}")[2].rpartition(":")[2]


def _rule(rule_id: str, prefix: str, days: int, *, qualifier: str, is_old_style: bool) -> bytes:
    """Our rule. `qualifier` is the namespace prefix of the document's elements with its colon, or empty."""

    def element(name: str, content: str) -> str:
        return f"<{qualifier}{name}>{content}</{qualifier}{name}>"

    where = element("Prefix", escape(prefix))
    return element(
        "Rule",
        element("ID", escape(rule_id))
        + (where if is_old_style else element("Filter", where))
        + element("Status", "Enabled")
        + element("Expiration", element("Days", str(days))),
    ).encode()


def _document(rule: bytes) -> bytes:
    return f'<{_ROOT} xmlns="{_NAMESPACE}">'.encode() + rule + f"</{_ROOT}>".encode()
