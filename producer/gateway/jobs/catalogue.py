"""The list of all tenants' jobs: one small entry for each request and outcome that Kafka still has, newest first.

Every replica reads the requests and the completions from the topics, so each lists the jobs of all replicas and those
that came through Kafka alone, and a restart forgets none. The list is bounded: beyond `kept_max` the tenant with the
most jobs loses its oldest. What the list has lost can still be asked for by its id.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import structlog

from darkroom.producer.gateway.jobs.feed import AGAIN_S, READ_S
from darkroom.producer.gateway.problems import invalid
from darkroom.producer.kafka.connection import KafkaDenied, KafkaUnavailable
from darkroom.producer.kafka.reader import TopicPartition, TopicReader
from darkroom.producer.outages import KAFKA
from darkroom.schemas.errors import ErrorCode, EventUnreadable, RequestRejected
from darkroom.schemas.events.completion import Status
from darkroom.schemas.wire.codec import decode_completion, decode_request

if TYPE_CHECKING:
    from darkroom.producer.gateway.jobs.hub import Hub, Identity
    from darkroom.schemas.events.completion import Completion
    from darkroom.schemas.events.request import GenerationRequest
    from darkroom.schemas.settings import Settings

log = structlog.get_logger(__name__)

PROMPT_CHARS_MAX: Final = 200
"""Characters of a prompt that the list shows: a line or two."""
TURN_RECORDS: Final = 50
"""Records after which other tasks get their turn: about 20 ms."""
SCANNED_MAX: Final = 20_000
"""Entries that one call looks at, within 40 ms; a rare filter gets an empty page and a cursor to go on from."""
OFFSETS_A_COMPLETION: Final = 4
"""Offsets read for each job that is kept: transactions end in markers, and a job's outcome may be repeated."""
MS_MAX: Final = 253_402_300_799_000
"""The last second of the year 9999 in milliseconds since 1970: RFC 3339 has no later one."""
CURSOR_CHARS_MAX: Final = 600
"""Characters of a cursor: its key holds an id of at most 128 characters."""

Key = tuple[int, str]
"""Milliseconds since 1970 and the request id: the order of a tenant's list."""


@dataclass(slots=True)
class Entry:
    """A job as the list keeps it, without its pose, pictures and timings."""

    request_id: str
    at_ms: int
    """When the request was accepted, or came to Kafka, in milliseconds since 1970."""
    prompt: str | None = None
    """The prompt's beginning; None where only the outcome is known."""
    labels: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    """The outcome; None while there is none."""
    completed_at_ms: int | None = None
    images: int = 0
    error: str | None = None
    is_recorded: bool = False
    """Whether `at_ms` is that of Kafka's record, on which all replicas agree."""

    @property
    def key(self) -> Key:
        """Return the entry's place in the order."""
        return self.at_ms, self.request_id


@dataclass(frozen=True, slots=True)
class Wanted:
    """A filter on the list. None lets everything pass."""

    statuses: frozenset[str] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    since_ms: int | None = None
    """Inclusive."""
    until_ms: int | None = None
    """Exclusive."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of the list, newest first. Each entry comes with its status."""

    entries: list[tuple[Entry, str]]
    cursor: str | None
    """What the next page begins after; None on the last page."""


class Catalogue:
    """The entries of all tenants."""

    def __init__(self, hub: Hub, *, kept_max: int) -> None:
        self._hub = hub
        self._kept_max = kept_max
        self._entries: dict[Identity, Entry] = {}
        self._orders: dict[str, list[Key]] = {}
        self.unready: str | None = "The list of jobs is still being read from Kafka."
        """Why the list cannot be trusted at the moment, as a sentence."""
        self.horizon_ms = 0
        """Outcomes before this time may not have been read, so an older job without one is not listed."""

    def __len__(self) -> int:
        return len(self._entries)

    # --- Events ------------------------------------------------------------------------------------------

    def on_request(self, request: GenerationRequest, at_ms: int, *, is_recorded: bool) -> None:
        """Take a request. The first record of an id is the job; later ones are its repetitions or conflicts."""
        identity = (request.tenant, request.request_id)
        entry = self._entries.get(identity)
        if entry is not None and entry.prompt is not None and (entry.is_recorded or not is_recorded):
            return
        entry = self._placed(identity, entry, at_ms)
        if entry.status != Status.ERASED.value:
            entry.prompt, entry.labels = request.prompt[:PROMPT_CHARS_MAX], dict(request.labels)
        entry.is_recorded = is_recorded

    def on_completion(self, completion: Completion) -> None:
        """Take a job's outcome. A conflict ends another record of the same id, and says nothing about the job."""
        if completion.error is not None and completion.error.code is ErrorCode.REQUEST_ID_CONFLICT:
            return
        identity = (completion.tenant, completion.request_id)
        entry = self._entries.get(identity)
        completed_at_ms = int(completion.completed_at.timestamp() * 1000)
        if entry is None:
            at = completion.requested_at
            entry = self._placed(identity, None, completed_at_ms if at is None else int(at.timestamp() * 1000))
            entry.labels = dict(completion.labels)
        if completion.status is Status.ERASED:
            self.erase(*identity)
        elif entry.status is None:
            entry.status, entry.completed_at_ms = completion.status.value, completed_at_ms
            entry.images = len(completion.images)
            entry.error = None if completion.error is None else completion.error.code.value

    def erase(self, tenant: str, request_id: str) -> None:
        """Keep of a job that it was erased, and nothing that its request or its outcome said."""
        entry = self._entries.get((tenant, request_id))
        if entry is not None:
            entry.prompt, entry.labels, entry.images, entry.error = None, {}, 0, None
            entry.status = Status.ERASED.value

    def _placed(self, identity: Identity, entry: Entry | None, at_ms: int) -> Entry:
        """Return the identity's entry at its place in the order: a new one, or the given one moved there."""
        tenant, request_id = identity
        at_ms = min(max(at_ms, 0), MS_MAX)  # senders write their records' times, and may write anything
        order = self._orders.setdefault(tenant, [])
        if entry is None:
            entry = self._entries[identity] = Entry(request_id, at_ms)
        else:
            _take_out(order, entry.key)
            entry.at_ms = at_ms
        insort(order, entry.key)
        if len(self._entries) > self._kept_max:
            self._forget_one()
        return entry

    def _forget_one(self) -> None:
        tenant, order = max(self._orders.items(), key=lambda one: len(one[1]))
        _, request_id = order.pop(0)
        del self._entries[(tenant, request_id)]

    # --- Look-ups ----------------------------------------------------------------------------------------

    def page(self, tenant: str, wanted: Wanted, *, after: str | None, limit: int) -> Page:
        """Return up to `limit` of a tenant's jobs after a cursor. Raises `Problem` 422 for a cursor that is no such."""
        order = self._orders.get(tenant, [])
        end = len(order)
        if wanted.until_ms is not None:
            end = bisect_left(order, (wanted.until_ms, ""))
        if after is not None:
            end = min(end, bisect_left(order, _key_of(after, tenant)))
        begin = 0 if wanted.since_ms is None else bisect_left(order, (wanted.since_ms, ""))
        scanned = range(end - 1, max(begin, end - SCANNED_MAX) - 1, -1)
        found: list[tuple[Entry, str]] = []
        for entry, status in self._matching(tenant, order, scanned, wanted):
            if len(found) == limit:
                return Page(found, _cursor_of(found[-1][0].key, tenant))
            found.append((entry, status))
        goes_on = end - SCANNED_MAX > begin
        return Page(found, _cursor_of(order[end - SCANNED_MAX], tenant) if goes_on else None)

    def _matching(self, tenant: str, order: list[Key], places: range, wanted: Wanted) -> Iterator[tuple[Entry, str]]:
        statuses, labels = wanted.statuses, wanted.labels.items()
        for place in places:
            identity = (tenant, order[place][1])
            entry = self._entries[identity]
            if entry.status is None and entry.at_ms < self.horizon_ms:
                continue
            status = entry.status or ("queued" if self._hub.progress(identity) is None else "running")
            if (statuses is None or status in statuses) and labels <= entry.labels.items():
                yield entry, status


class CatalogueFeed:
    """Reads the topics into a catalogue while `run` runs: first what they still have, then what comes."""

    def __init__(self, settings: Settings, catalogue: Catalogue, *, kept_max: int) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._kept_max = kept_max
        self._positions: dict[TopicPartition, int] = {}
        self._cut: set[TopicPartition] = set()
        """Partitions of completions that are not read from their beginning, and of which no record has come yet."""
        self.has_read = False
        """Whether Kafka has ever let this process read the topics."""
        self.denied: str | None = None
        """The right that was missing when reading ended, until it resumes."""

    async def run(self) -> None:
        """Read until cancelled. After a failure, resume at the last position, so that no job is missed."""
        while True:
            try:
                await self._follow()
            except KafkaUnavailable as error:
                self.denied = str(error) if isinstance(error, KafkaDenied) else None
                self._catalogue.unready = self.denied or "Kafka is away."
                KAFKA.failed("catalogue", error)
            await asyncio.sleep(AGAIN_S)

    async def _follow(self) -> None:
        topics = self._settings.topics
        async with TopicReader(self._settings.kafka, (topics.requests, topics.completions)) as reader:
            begins, ends = await reader.beginnings(), await reader.stable_ends()
            for place, end in ends.items():
                partitions = sum(one.topic == place.topic for one in ends)
                offsets = OFFSETS_A_COMPLETION if place.topic == topics.completions else 1
                first = max(begins[place], end - offsets * max(1, self._kept_max // partitions))
                if place not in self._positions and first > begins[place] and place.topic == topics.completions:
                    self._cut.add(place)
                self._positions.setdefault(place, first)
            reader.start_at(self._positions)
            KAFKA.answered("catalogue")
            behind = {place for place, end in ends.items() if self._positions[place] < end}
            while True:
                behind = {place for place in behind if await reader.position(place) < ends[place]}
                if not behind:
                    self._catalogue.unready = None
                await reader.look_for_growth()
                records = await reader.read(READ_S)
                self.has_read, self.denied = True, None
                for number, record in enumerate(records):
                    place = TopicPartition(record.topic, record.partition)
                    if place in self._cut:
                        self._cut.remove(place)
                        self._catalogue.horizon_ms = max(self._catalogue.horizon_ms, record.timestamp)
                    self._take(record)
                    self._positions[place] = record.offset + 1
                    if number % TURN_RECORDS == TURN_RECORDS - 1:
                        await asyncio.sleep(0)

    def _take(self, record: Any) -> None:
        try:
            if record.topic == self._settings.topics.completions:
                self._catalogue.on_completion(decode_completion(record.value, record.headers))
            else:
                bytes_max = self._settings.topics.max_message_bytes
                decoded = decode_request(record.value, record.headers, max_bytes=bytes_max)
                self._catalogue.on_request(decoded.request, record.timestamp, is_recorded=True)
        except (EventUnreadable, RequestRejected) as error:
            # A request that no worker can read has a completion or a dead letter that says so.
            log.debug("a record was left out of the list of jobs", topic=record.topic, reason=str(error))


def _take_out(order: list[Key], key: Key) -> None:
    place = bisect_left(order, key)
    if place < len(order) and order[place] == key:
        del order[place]


def _cursor_of(key: Key, tenant: str) -> str:
    text = json.dumps([_mark_of(tenant), *key], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _key_of(cursor: str, tenant: str) -> Key:
    """Return the place that a cursor of this tenant names. Raises `Problem` 422 for any other text.

    A cursor gives no right: the list that it is a place in is always that of the caller's own tenant.
    """
    try:
        content = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        mark, at_ms, request_id = json.loads(content)
        if mark == _mark_of(tenant) and type(at_ms) is int and isinstance(request_id, str):
            return at_ms, request_id
    except (ValueError, TypeError, RecursionError):
        pass
    raise invalid(
        "The cursor is not one that this tenant's list gave.",
        "Pass the `next_cursor` of the page before as it was, with the same key; leave it out to begin anew.",
    )


def _mark_of(tenant: str) -> str:
    return hashlib.sha256(f"darkroom list {tenant}".encode()).hexdigest()[:16]
