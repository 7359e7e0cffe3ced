"""The audit's book: two bytes for each record of the request topic, and the questions that they answer. Pure.

What is kept of a record is whether it is there, how often it was answered and how; never what it said. So the book of
a million records takes two megabytes, however long their prompts are. Offsets are kept in pages, since those that
are still in a topic begin anywhere.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, Status

PAGE_OFFSETS: Final = 65_536
LISTED_MAX: Final = 10_000
"""Entries of one list; where more is wrong than that, more entries say nothing more."""

_RECORD: Final = 1
_ONE_COMPLETION: Final = 2
_MORE_COMPLETIONS: Final = 4
_REPLAYED: Final = 8
_CONFLICT: Final = 16
_DEAD: Final = 32
_DEAD_AGAIN: Final = 64
_DEAD_BY_CRASH: Final = 128
_STATUS_SHIFT: Final = 8
_STATUSES: Final = tuple(Status)


@dataclass(frozen=True, slots=True)
class Committed:
    """A partition's committed offset and metadata."""

    offset: int
    """The committed offset: everything below it is finished."""
    finished: frozenset[int] = frozenset()
    """What is finished above it, from the commit's metadata."""

    def is_finished(self, offset: int) -> bool:
        """Return whether the group has committed an outcome of the record at this offset."""
        return offset < self.offset or offset in self.finished


@dataclass(slots=True)
class Findings:
    """Summary of a tally. Counts are by record of the request topic."""

    records: int = 0
    by_status: dict[Status, int] = field(default_factory=lambda: dict.fromkeys(Status, 0))
    dead_lettered: int = 0
    replayed: int = 0
    conflicts: int = 0
    pending: int = 0
    missing: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)


class Tally:
    """Records of one request topic and their outcomes, as far as they were seen, in whatever order."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._pages: dict[tuple[int, int], array[int]] = {}

    def record(self, partition: int, offset: int) -> None:
        """There is a record."""
        self._mark(partition, offset, _RECORD)

    def completion(self, completion: Completion) -> None:
        """A completion was read. One that answers a record of another topic is none of this book's business."""
        source = completion.source
        if source.topic != self._topic:
            return
        marks = self._marks(source.partition, source.offset)
        if marks & _ONE_COMPLETION:
            self._mark(source.partition, source.offset, _MORE_COMPLETIONS)
            return
        new = _ONE_COMPLETION | (1 + _STATUSES.index(completion.status)) << _STATUS_SHIFT
        if completion.replayed:
            new |= _REPLAYED
        if completion.error is not None and completion.error.code is ErrorCode.REQUEST_ID_CONFLICT:
            new |= _CONFLICT
        self._mark(source.partition, source.offset, new)

    def dead_letter(self, topic: str, partition: int, offset: int, code: str) -> None:
        """A dead letter of this record was read, with this error code."""
        if topic != self._topic:
            return
        new = _DEAD_AGAIN if self._marks(partition, offset) & _DEAD else _DEAD
        if code == ErrorCode.WORKER_CRASH:
            new |= _DEAD_BY_CRASH
        self._mark(partition, offset, new)

    def findings(self, committed: Mapping[int, Committed]) -> Findings:
        """Hold all that was told against what the group committed, by partition; nothing where it has none.

        - missing: the group says that the record is finished, and there is neither a completion nor a dead letter;
        - pending: the same, but the group does not say so;
        - duplicated: two completions, two dead letters, or one of each unless the request killed its worker.

        A record that retention has removed is not counted; its duplicated outcomes still are.
        """
        findings = Findings()
        missing, duplicated = Listing(), Listing()
        for partition, offset, marks in self._all():
            name = f"{self._topic}-{partition}-{offset}"
            if _is_duplicated(marks):
                duplicated.add(name)
            if not marks & _RECORD:
                continue
            _count(findings, marks)
            if marks & (_ONE_COMPLETION | _DEAD):
                continue
            if partition in committed and committed[partition].is_finished(offset):
                missing.add(name)
            else:
                findings.pending += 1
        findings.missing, findings.duplicated = missing.entries(), duplicated.entries()
        return findings

    def _marks(self, partition: int, offset: int) -> int:
        number, index = divmod(offset, PAGE_OFFSETS)
        page = self._pages.get((partition, number))
        return 0 if page is None else page[index]

    def _mark(self, partition: int, offset: int, marks: int) -> None:
        number, index = divmod(offset, PAGE_OFFSETS)
        page = self._pages.get((partition, number))
        if page is None:
            page = self._pages[partition, number] = array("H", bytes(2 * PAGE_OFFSETS))
        page[index] |= marks

    def _all(self) -> Iterator[tuple[int, int, int]]:
        for (partition, number), page in sorted(self._pages.items()):
            for index, marks in enumerate(page):
                if marks:
                    yield partition, number * PAGE_OFFSETS + index, marks


class Listing:
    """A list that stops growing, and says by how much it is too short."""

    def __init__(self) -> None:
        self._entries: list[str] = []
        self._more = 0

    def add(self, entry: str) -> None:
        """Append, while there is room."""
        if len(self._entries) < LISTED_MAX:
            self._entries.append(entry)
        else:
            self._more += 1

    def entries(self) -> list[str]:
        """Return the entries of the list."""
        return [*self._entries, f"and {self._more} more"] if self._more else list(self._entries)


def _is_duplicated(marks: int) -> bool:
    if marks & (_MORE_COMPLETIONS | _DEAD_AGAIN):
        return True
    return bool(marks & _ONE_COMPLETION and marks & _DEAD and not marks & _DEAD_BY_CRASH)


def _count(findings: Findings, marks: int) -> None:
    findings.records += 1
    if marks & _ONE_COMPLETION:
        findings.by_status[_STATUSES[(marks >> _STATUS_SHIFT) - 1]] += 1
    findings.dead_lettered += bool(marks & _DEAD)
    findings.replayed += bool(marks & _REPLAYED)
    findings.conflicts += bool(marks & _CONFLICT)
