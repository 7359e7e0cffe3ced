"""Follows completions and progress into the hub, from the process's start on, whatever happens to Kafka meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from darkroom.producer.gateway.jobs.hub import Hub
from darkroom.producer.kafka.connection import KafkaDenied, KafkaUnavailable
from darkroom.producer.kafka.passed_over import PassedOver
from darkroom.producer.kafka.reader import TopicPartition, TopicReader
from darkroom.producer.outages import KAFKA
from darkroom.schemas.errors import EventUnreadable
from darkroom.schemas.wire.codec import decode_completion, decode_progress

if TYPE_CHECKING:
    from darkroom.schemas.events.completion import Completion
    from darkroom.schemas.settings import Settings

log = structlog.get_logger(__name__)

READ_S: Final = 1.0
"""How long one read waits for records; a record that comes ends it."""
AGAIN_S: Final = 1.0
"""Between two tries to follow."""


class Feed:
    """`run` follows until cancelled. `on_completion` is told of each completion beside the hub."""

    def __init__(self, settings: Settings, hub: Hub, on_completion: Callable[[Completion], None]) -> None:
        self._settings = settings
        self._hub = hub
        self._on_completion = on_completion
        self._positions: dict[TopicPartition, int] = {}
        self._passed_over = PassedOver()
        self.denied: str | None = None
        """The right that was missing when following ended, until it goes on."""

    async def run(self) -> None:
        """Follow. After a failure, on from where it was, so that what was published meanwhile is seen late."""
        while True:
            try:
                await self._follow()
            except KafkaUnavailable as error:
                self.denied = str(error) if isinstance(error, KafkaDenied) else None
                KAFKA.failed("feed", error)
            finally:
                self._hub.is_following = False
            await asyncio.sleep(AGAIN_S)

    async def _follow(self) -> None:
        topics = self._settings.topics
        async with TopicReader(self._settings.kafka, (topics.completions, topics.progress)) as reader:
            ends = await reader.stable_ends()
            self._positions = {place: self._positions.get(place, end) for place, end in ends.items()}
            reader.start_at(self._positions)
            self._hub.is_following, self.denied = True, None
            KAFKA.answered("feed")
            while True:
                await reader.look_for_growth()
                for record in await reader.read(READ_S):
                    self._positions[TopicPartition(record.topic, record.partition)] = record.offset + 1
                    self._take(record)

    def _take(self, record: Any) -> None:
        try:
            if record.topic == self._settings.topics.progress:
                self._hub.on_progress(decode_progress(record.value, record.headers))
            else:
                completion = decode_completion(record.value, record.headers)
                self._hub.on_completion(completion)
                self._on_completion(completion)
        except EventUnreadable as error:
            if told := self._passed_over.add(record, error.message):
                log.warning(told)
