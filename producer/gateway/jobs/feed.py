"""Follows completions and progress from the start of the process on, into the hub and the quotas.

Following survives every outage of Kafka. What was published during one is read after it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog

from darkroom.producer.gateway.jobs.hub import Hub
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.kafka.connection import KafkaDenied, KafkaUnavailable
from darkroom.producer.kafka.passed_over import PassedOver
from darkroom.producer.kafka.reader import TopicPartition, TopicReader
from darkroom.producer.outages import KAFKA
from darkroom.schemas.errors import EventUnreadable
from darkroom.schemas.wire.codec import decode_completion, decode_progress

if TYPE_CHECKING:
    from darkroom.producer.gateway.principal import Quotas
    from darkroom.schemas.events.completion import Completion
    from darkroom.schemas.settings import Settings

log = structlog.get_logger(__name__)

READ_S: Final = 1.0
"""Seconds that one read waits for a record."""
AGAIN_S: Final = 1.0
"""Seconds between two tries to follow."""
ENDS_WAITING_MAX: Final = 10_000
"""Ended jobs that the quotas are still to be told of. Beyond it the oldest are dropped: every replica reports each."""


class Feed:
    """Follows into the hub, and tells `on_completion` of each completion, while `run` runs."""

    def __init__(self, settings: Settings, hub: Hub, on_completion: Callable[[Completion], None]) -> None:
        self._settings = settings
        self._hub = hub
        self._on_completion = on_completion
        self._positions: dict[TopicPartition, int] = {}
        self._passed_over = PassedOver()
        self.denied: str | None = None
        """The right that was missing when following ended, until it resumes."""

    async def run(self) -> None:
        """Follow until cancelled. After a failure, resume at the last position, so that no event is missed."""
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


class JobEnds:
    """Tells the quotas which jobs have ended, in a task of its own: a slow store of counts delays no event.

    Every replica reports every end, so that an end is reported even if the replica that began the job is gone.
    """

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._waiting: deque[tuple[str, str]] = deque(maxlen=ENDS_WAITING_MAX)
        self._some = asyncio.Event()

    def note(self, completion: Completion) -> None:
        """Queue the end of a job."""
        self._waiting.append((completion.tenant, completion.request_id))
        self._some.set()

    async def run(self) -> None:
        """Report ends until cancelled."""
        while True:
            while self._waiting:
                tenant, request_id = self._waiting.popleft()
                try:
                    await self._quotas.end_job(tenant, request_id)
                except Problem as error:
                    log.warning("the end of a job was not counted", job=f"{tenant}/{request_id}", reason=error.detail)
            self._some.clear()
            await self._some.wait()
