"""Reads the dead letters topic: which letters there are, which were replayed, and the record that each one was.

Letters are listed without their values, so listing takes little memory however large the records are; a value is
fetched for one letter at a time, from the topic or, where it is too large for that, from the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.kafka.reader import TopicPartition, TopicReader
from darkroom.producer.outcomes.dead_letters import (
    LetterUnreadable,
    Origin,
    Original,
    coordinates,
    origin,
    read_stored,
    repeated,
    replayed,
    stored_place,
)
from darkroom.producer.store.objects import Objects, ObjectsError, StoreUnavailable
from darkroom.schemas.names import DeadLetterHeader, ReplayHeader

if TYPE_CHECKING:
    from darkroom.schemas.settings import Settings

LETTERS_MAX: Final = 100_000
"""Letters that are held at once, at about a kilobyte each."""
STORED_BYTES_MAX: Final = 96 * 1024 * 1024
"""Of a stored record: the largest that `topics.max_message_bytes` allows, in base64."""
READ_S: Final = 0.5
"""How long one read waits for records."""


_TIMESTAMP_MS_MAX: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * 1000
"""Of a record: whoever writes to the topic may give any number."""
_ATTEMPTS_DIGITS_MAX: Final = 9


class TooManyLetters(Exception):  # noqa: N818 - named for what was found
    """More letters match than are held at once: one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its value."""

    origin: Origin
    message: str
    attempts: int
    """How often rendering was begun."""
    worker: str
    request_id: str | None
    """None where none could be read: then the record has no completion."""
    at: datetime
    """When it was published."""
    size_bytes: int
    """Of its value; of the stored record where it is in the store."""
    is_stored: bool
    place: TopicPartition
    offset: int
    """Its own, on the dead letters topic."""
    replayed_as: str | None = None
    """The coordinates of the record that repeats it; None where it was not replayed."""

    @property
    def name(self) -> str:
        """Its id for people: topic-partition-offset of the record that it was."""
        return coordinates(self.origin.source)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters are meant. The default is all of them; each field narrows."""

    names: frozenset[str] = frozenset()
    codes: frozenset[str] = frozenset()
    worker: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    """Exclusive."""

    def takes(self, letter: Letter) -> bool:
        """Return whether a letter matches."""
        return (
            (not self.names or letter.name in self.names)
            and (not self.codes or letter.origin.code in self.codes)
            and (self.worker is None or letter.worker == self.worker)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
        )


@dataclass(slots=True)
class _Found:
    letters: dict[str, Letter] = field(default_factory=dict)
    replays: dict[str, str] = field(default_factory=dict)


class DeadLetterLog:
    """The dead letters of one deployment. An async context manager, for one task at a time.

    Every method raises `KafkaUnavailable`, also where the topic is not there.
    """

    def __init__(self, settings: Settings, objects: Objects) -> None:
        self._settings = settings
        self._objects = objects
        self._reader = TopicReader(settings.kafka, (settings.topics.dead_letters,))

    async def __aenter__(self) -> Self:
        await self._reader.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._reader.close()

    async def letters(self, wanted: Filter | None = None) -> list[Letter]:
        """The letters that are committed by now and meant by the filter, oldest first.

        Each record is there once: where it died twice (its offset was reset), by its last letter. Raises
        `TooManyLetters` beyond `LETTERS_MAX`.
        """
        wanted = wanted or Filter()
        ends = await self._reader.stable_ends()
        beginnings = await self._reader.beginnings()
        unread = {place: end for place, end in ends.items() if end > beginnings[place]}
        found = _Found()
        self._reader.start_at({place: beginnings[place] for place in unread})
        moved_at = time.monotonic()
        while unread:
            for record in await self._reader.read(READ_S):
                moved_at = time.monotonic()
                _take(found, record, wanted)
            for place, end in tuple(unread.items()):
                if await self._reader.position(place) >= end:
                    self._reader.leave_out(place)
                    del unread[place]
            self._check_progress(moved_at)
        letters = [replace(one, replayed_as=found.replays.get(name)) for name, one in found.letters.items()]
        return sorted(letters, key=lambda one: (one.at, one.name))

    async def original(self, letter: Letter) -> Original:
        """The record that a letter was, with its bytes.

        Raises `LetterUnreadable` where it cannot be had any more, and `StoreUnavailable`.
        """
        record = await self._record(letter)
        if not letter.is_stored:
            return repeated(record.key, record.value, record.headers)
        bucket, key, sha256 = stored_place(record.value)
        try:
            content = await self._objects.get(key, bucket=bucket, bytes_max=STORED_BYTES_MAX)
        except StoreUnavailable:
            raise
        except ObjectsError as error:
            raise LetterUnreadable(str(error)) from error
        if content is None:
            raise LetterUnreadable(
                f"the object {bucket}/{key} that holds it is gone (DARKROOM_S3__RETENTION_DAYS says how long it stays)"
            )
        return read_stored(content, sha256=sha256)

    async def _record(self, letter: Letter) -> Any:
        """The letter itself, read again."""
        self._reader.start_at({letter.place: letter.offset})
        asked_at = time.monotonic()
        while True:
            for record in await self._reader.read(READ_S):
                if record.offset == letter.offset:
                    return record
                raise LetterUnreadable("the topic does not have it any more")
            self._check_progress(asked_at)
            await asyncio.sleep(0)

    def _check_progress(self, moved_at: float) -> None:
        limit_s = self._settings.kafka.request_timeout_ms / 1000
        if time.monotonic() - moved_at > limit_s:
            raise KafkaUnavailable(
                f"Kafka delivered nothing of {self._settings.topics.dead_letters} for {limit_s:.0f} s although there "
                "is more. Check the broker's health."
            )


def _take(found: _Found, record: Any, wanted: Filter) -> None:
    named = {name: content for name, content in record.headers if content is not None}
    if (name := replayed(record.headers)) is not None:
        found.replays[name] = named.get(ReplayHeader.AS, b"an unknown record").decode("utf-8", "replace")
        return
    letter = _letter(record, named)
    if letter is None or not wanted.takes(letter):
        return
    found.letters[letter.name] = letter
    if len(found.letters) > LETTERS_MAX:
        raise TooManyLetters(
            f"More than {LETTERS_MAX} dead letters match. Narrow them with --since, --until, --code or --worker."
        )


def _letter(record: Any, named: dict[str, bytes]) -> Letter | None:
    """A record of the topic as a letter; None where it is nobody's."""
    found = origin(record.headers)
    if found is None:
        return None
    key = (record.key or b"").decode("utf-8", "replace")
    attempts = named.get(DeadLetterHeader.ATTEMPTS, b"")
    return Letter(
        origin=found,
        message=named.get(DeadLetterHeader.ERROR_MESSAGE, b"").decode("utf-8", "replace"),
        attempts=int(attempts) if attempts.isdigit() and len(attempts) <= _ATTEMPTS_DIGITS_MAX else 0,
        worker=named.get(DeadLetterHeader.WORKER, b"").decode("utf-8", "replace"),
        request_id=None if key in ("", coordinates(found.source)) else key,
        at=datetime.fromtimestamp(min(max(0, record.timestamp), _TIMESTAMP_MS_MAX) / 1000, UTC),
        size_bytes=len(record.value or b""),
        is_stored=DeadLetterHeader.OBJECT in named,
        place=TopicPartition(record.topic, record.partition),
        offset=record.offset,
    )


def unknown(names: Collection[str], letters: Collection[Letter]) -> list[str]:
    """Those of `names` that no letter has, in order."""
    there = {letter.name for letter in letters}
    return [name for name in names if name not in there]
