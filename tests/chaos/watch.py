"""Reads every outcome as it becomes visible, and keeps the book: what waits, for how long, and what came of faults.

It has Kafka's word on each accepted record (partition and offset) and so needs nobody's: what was accepted and has
no outcome is known by name. The audit looks at the same from the other side.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.kafka.reader import TopicPartition, TopicReader
from darkroom.producer.outcomes.dead_letters import origin
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import decode_completion

READ_S = 0.1
RETRY_S = 0.2

Spot = tuple[int, int]
"""A record of the request topic: partition and offset."""


@dataclass(slots=True)
class Recovery:
    """What a fault still holds up: partitions that had work waiting when it ended and have published nothing since."""

    kind: str
    ended_at: float
    partitions: set[int]
    seconds: float | None = None


@dataclass(slots=True)
class Book:
    """What was accepted and what came of it. Times are the monotonic clock's."""

    waiting: dict[Spot, float] = field(default_factory=dict)
    completions: dict[Spot, list[Completion]] = field(default_factory=dict)
    dead_letters: dict[Spot, list[str]] = field(default_factory=dict)
    """Their error codes."""
    recoveries: list[Recovery] = field(default_factory=list)
    longest_wait_s: float = 0.0
    """From a record's acceptance to its outcome."""
    longest_stall_s: float = 0.0
    """Without any outcome while work was waiting."""
    _stalled_since: float | None = None

    def accepted(self, spot: Spot, now: float) -> None:
        """Kafka has taken a record."""
        if spot in self.completions or spot in self.dead_letters:
            return  # its outcome was quicker than the acknowledgement
        if not self.waiting:
            self._stalled_since = now
        self.waiting[spot] = now

    def answered(self, spot: Spot, outcome: Completion | str, now: float) -> None:
        """An outcome became visible."""
        if isinstance(outcome, str):
            self.dead_letters.setdefault(spot, []).append(outcome)
        else:
            self.completions.setdefault(spot, []).append(outcome)
        self._moved(now)
        accepted_at = self.waiting.pop(spot, None)
        if accepted_at is not None:
            self.longest_wait_s = max(self.longest_wait_s, now - accepted_at)
        self._stalled_since = now if self.waiting else None
        for recovery in self.recoveries:
            if recovery.seconds is None:
                recovery.partitions.discard(spot[0])
                if not recovery.partitions:
                    recovery.seconds = now - recovery.ended_at

    def looked(self, now: float) -> None:
        """Nothing came."""
        self._moved(now)

    def fault_ended(self, kind: str, now: float, partitions: Iterable[int] | None = None) -> Recovery:
        """From now on it is measured how long the partitions take to publish again; those with work waiting."""
        held_up = {partition for partition, _ in self.waiting} if partitions is None else set(partitions)
        recovery = Recovery(kind, now, held_up, None if held_up else 0.0)
        self.recoveries.append(recovery)
        return recovery

    def _moved(self, now: float) -> None:
        if self._stalled_since is not None:
            self.longest_stall_s = max(self.longest_stall_s, now - self._stalled_since)


class Watcher:
    """Fills a book from the completions and the dead letters, whatever becomes of Kafka meanwhile."""

    def __init__(self, settings: Settings, book: Book) -> None:
        self._settings = settings
        self._book = book
        self._positions: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._follow()
            except KafkaUnavailable:
                self._book.looked(time.monotonic())
                await asyncio.sleep(RETRY_S)

    async def _follow(self) -> None:
        topics = self._settings.topics
        async with TopicReader(self._settings.kafka, (topics.completions, topics.dead_letters)) as reader:
            reader.start_at(dict.fromkeys(reader.partitions, 0) | self._positions)
            while True:
                records = await reader.read(READ_S)
                now = time.monotonic()
                for record in records:
                    self._positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
                    self._take(record, now)
                self._book.looked(now)

    def _take(self, record: Any, now: float) -> None:
        if record.topic == self._settings.topics.dead_letters:
            letter = origin(record.headers)
            assert letter is not None, f"a dead letter without its origin: {record}"
            self._book.answered((letter.source.partition, letter.source.offset), str(letter.code), now)
        else:
            completion = decode_completion(record.value, record.headers)
            self._book.answered((completion.source.partition, completion.source.offset), completion, now)
