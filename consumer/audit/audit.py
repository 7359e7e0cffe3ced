"""Holds requests, outcomes, the group's offsets and the bucket against each other: was each record answered once?

The order of the first looks makes the answer sound while workers go on: first what the group has committed, then
where the requests end, then where the outcomes end. An outcome is written before the offset that rests on it is
committed, in one transaction, so whatever the group calls finished has its outcome before the third look's ends.
Another worker's transaction that is still open can hide that outcome from readers for a moment; it is waited for.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog

from darkroom.consumer.audit.pictures import ObjectChecks
from darkroom.consumer.audit.tally import Committed, Tally
from darkroom.consumer.core.offset_map import decode_commit
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.producer.kafka.connection import KafkaUnavailable, administering
from darkroom.producer.kafka.groups import committed_offsets
from darkroom.producer.kafka.reader import TopicPartition, TopicReader
from darkroom.producer.outcomes.dead_letters import origin, replayed
from darkroom.producer.store.objects import Objects
from darkroom.schemas.errors import EventUnreadable
from darkroom.schemas.events.completion import Source, Status
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import decode_completion

log = structlog.get_logger(__name__)

READ_S: Final = 0.5
"""How long one read waits for records."""
SETTLE_S: Final = 10.0
"""Added to the transaction time-out: how long nothing may come before what is missing is not waited for any more."""

Ends = Mapping[TopicPartition, int]


@dataclass(frozen=True, slots=True)
class AuditReport:
    """Result of an audit. Counts are by record of the request topic, lists are of what is wrong.

    `missing` and `duplicated` name records as topic-partition-offset, the others objects as bucket/key.
    """

    records: int
    succeeded: int
    failed: int
    expired: int
    cancelled: int
    erased: int
    dead_lettered: int
    replayed: int
    conflicts: int
    pending: int
    objects_erased: int
    """Pictures that completions name and that were erased."""
    missing: list[str]
    duplicated: list[str]
    objects_missing: list[str]
    objects_corrupt: list[str]
    erasures_unfinished: list[str]
    """Requests, as tenant/request id, that were erased and of which the store still has pictures or uploads."""
    credentials_broken: list[str] | None = None
    """Pictures that were signed and whose content credentials do not hold; None where nobody looked."""

    @property
    def is_clean(self) -> bool:
        """Return whether nothing is wrong. Work that is still pending is not wrong."""
        return not (
            self.missing
            or self.duplicated
            or self.objects_missing
            or self.objects_corrupt
            or self.erasures_unfinished
            or self.credentials_broken
        )

    def as_dict(self) -> dict[str, Any]:
        """The report as it is printed."""
        report = asdict(self)
        if self.credentials_broken is None:
            del report["credentials_broken"]
        return report


async def audit(
    settings: Settings,
    objects: Objects,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    settle_s: float | None = None,
    are_signed: Callable[[bytes], bool] | None = None,
) -> AuditReport:
    """Audit one deployment: its topics, its group and its bucket. Changes nothing; workers may go on meanwhile.

    `settle_s` is how long an outcome that an open transaction hides is waited for: longer than a transaction can
    last, unless given. `are_signed` says whether the content credentials of a picture hold; without it they are not
    looked at.

    Memory: two bytes for each offset of the request topic, and `audit_objects.CHECKS_MAX` pictures. Raises
    `KafkaUnavailable` and `StoreUnavailable`: then nothing was found out.
    """
    topics = settings.topics
    tally = Tally(topics.requests)
    checks = ObjectChecks(objects, retention=timedelta(days=settings.s3.retention_days), now=now, are_signed=are_signed)

    unreadable: Counter[str] = Counter()

    async def on_request(record: Any) -> None:
        tally.record(record.partition, record.offset)

    async def on_outcome(record: Any) -> None:
        if record.topic == topics.dead_letters:
            is_ours = _take_dead_letter(tally, record, requests_end)
        else:
            is_ours = await _take_completion(tally, checks, record, requests_end)
        if not is_ours:
            unreadable[record.topic] += 1

    async with _readers(settings) as (requests, outcomes):
        committed = await _committed(settings, requests.partitions)
        requests_end = await requests.stable_ends()
        outcomes_stable, outcomes_end = await outcomes.stable_ends(), await outcomes.high_watermarks()
        if settle_s is None:
            settle_s = settings.kafka.transaction_timeout_ms / 1000 + SETTLE_S
        try:
            await _read(requests, requests_end, on_request, least=requests_end, settle_s=settle_s)
            await _read(outcomes, outcomes_end, on_outcome, least=outcomes_stable, settle_s=settle_s)
            await checks.finish()
        finally:
            await checks.cancel()
    for topic, number in sorted(unreadable.items()):
        log.warning(
            "records that are neither completions nor dead letters were passed over", topic=topic, records=number
        )
    findings = tally.findings(committed)
    return AuditReport(
        records=findings.records,
        succeeded=findings.by_status[Status.SUCCEEDED],
        failed=findings.by_status[Status.FAILED],
        expired=findings.by_status[Status.EXPIRED],
        cancelled=findings.by_status[Status.CANCELLED],
        erased=findings.by_status[Status.ERASED],
        dead_lettered=findings.dead_lettered,
        replayed=findings.replayed,
        conflicts=findings.conflicts,
        pending=findings.pending,
        missing=findings.missing,
        duplicated=findings.duplicated,
        objects_missing=checks.missing.entries(),
        objects_corrupt=checks.corrupt.entries(),
        objects_erased=checks.erased,
        erasures_unfinished=checks.unfinished.entries(),
        credentials_broken=None if are_signed is None else checks.unsigned.entries(),
    )


@contextlib.asynccontextmanager
async def _readers(settings: Settings) -> AsyncIterator[tuple[TopicReader, TopicReader]]:
    topics = settings.topics
    async with (
        TopicReader(settings.kafka, (topics.requests,)) as requests,
        TopicReader(settings.kafka, (topics.completions, topics.dead_letters)) as outcomes,
    ):
        yield requests, outcomes


async def _committed(settings: Settings, partitions: Collection[TopicPartition]) -> dict[int, Committed]:
    """What the group has committed of the request topic, by partition."""
    kafka, topic = settings.kafka, settings.topics.requests
    async with administering(kafka, f"asking for the offsets of the group {kafka.group_id}") as admin:
        offsets = await committed_offsets(admin, kafka.group_id, partitions, timeout_s=kafka.request_timeout_ms / 1000)
    committed = {}
    for place, found in offsets.items():
        if found is not None:
            commit = decode_commit(PartitionKey(topic, place.partition), found.offset, found.metadata or "")
            committed[place.partition] = Committed(commit.base, commit.finished)
    return committed


async def _read(
    reader: TopicReader, ends: Ends, on_record: Callable[[Any], Awaitable[None]], *, least: Ends, settle_s: float
) -> None:
    """Give every record before `ends` to `on_record`, from the beginning.

    Where nothing comes for `settle_s`, what was read must reach to `least`, or `KafkaUnavailable` is raised.
    """
    unread = {place: end for place, end in ends.items() if end > 0}
    positions = await reader.beginnings()
    reader.start_at({place: positions[place] for place in unread})
    moved_at = time.monotonic()
    while True:
        for place, end in tuple(unread.items()):
            position = await reader.position(place)
            if position > positions[place]:
                positions[place], moved_at = position, time.monotonic()
            if position >= end:
                reader.leave_out(place)
                del unread[place]
        if not unread:
            return
        if time.monotonic() - moved_at > settle_s:
            break
        for record in await reader.read(READ_S):
            if record.offset < ends[TopicPartition(record.topic, record.partition)]:
                await on_record(record)
    short = [place for place in unread if positions[place] < least[place]]
    if short:
        raise KafkaUnavailable(
            f"Kafka delivered nothing of {short[0].topic}-{short[0].partition} beyond offset {positions[short[0]]} for "
            f"{settle_s:.0f} s although there is more. Check the broker's health."
        )


def _take_dead_letter(tally: Tally, record: Any, ends: Ends) -> bool:
    """Enter a dead letter. Returns False where it is none."""
    if replayed(record.headers) is not None:
        return True  # the note of a replay
    found = origin(record.headers)
    if found is None:
        return False
    if _is_counted(found.source, ends):
        tally.dead_letter(found.source.topic, found.source.partition, found.source.offset, found.code)
    return True


async def _take_completion(tally: Tally, checks: ObjectChecks, record: Any, ends: Ends) -> bool:
    """Enter a completion and check its pictures. Returns False where it is none."""
    try:
        completion = decode_completion(record.value, record.headers)
    except EventUnreadable:
        return False
    if _is_counted(completion.source, ends):
        tally.completion(completion)
    await checks.submit(completion)
    return True


def _is_counted(source: Source, ends: Ends) -> bool:
    """Return whether a record is before where the requests ended. Others came later, or are made up: the book has a
    page for whatever offset it is told.
    """
    return source.offset < ends.get(TopicPartition(source.topic, source.partition), 0)
