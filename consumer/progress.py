"""Progress events for the requests that asked for them: lossy, so nothing ever waits for them.

One event a request and interval at the most; what Kafka does not take at once is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from consumer.core.partition_key import JobKey
from consumer.intake import Payload
from inference import contract as engine_says
from inference.contract import EngineEvent, JobId
from schemas.codec import EncodedEvent, encode_progress
from schemas.events import Progress

log = structlog.get_logger(__name__)

INTERVAL_S = 0.2
"""The least time between two events of one request: as often as a person can see."""
QUEUE_MAX = 1000
"""Events that wait for Kafka; beyond it new ones are dropped."""


class ProgressFeed:
    """An observer of the engine's events that publishes some of them."""

    def __init__(
        self,
        topic: str,
        arguments: dict[str, Any],
        worker: str,
        payload_of: Callable[[JobId], tuple[JobKey, Payload] | None],
    ) -> None:
        self._topic = topic
        self._arguments = arguments
        self._worker = worker
        self._payload_of = payload_of
        self._queue: asyncio.Queue[EncodedEvent] = asyncio.Queue(QUEUE_MAX)
        self._sent_at: dict[JobId, float] = {}

    def on_engine(self, event: EngineEvent) -> None:
        """Queue an event for each request that asked and has not been told just now."""
        if isinstance(event, engine_says.JobRendered | engine_says.JobFailed):
            self._sent_at.pop(event.job_id, None)
        if not isinstance(event, engine_says.StepDone):
            return
        now = asyncio.get_running_loop().time()
        for job_id, steps_done in event.steps_done.items():
            found = self._payload_of(job_id)
            if found is None:
                self._sent_at.pop(job_id, None)
            elif now - self._sent_at.get(job_id, float("-inf")) >= INTERVAL_S:
                self._sent_at[job_id] = now
                self._offer(found[1], steps_done)

    def _offer(self, payload: Payload, steps_done: int) -> None:
        if payload.render is None or payload.request_id is None or self._queue.full():
            return
        progress = Progress(
            request_id=payload.request_id,
            tenant=payload.tenant,
            stage="denoise",
            steps_done=min(steps_done, payload.render.steps),
            steps_total=payload.render.steps,
            worker=self._worker,
            at=datetime.now(UTC),
        )
        self._queue.put_nowait(encode_progress(progress, traceparent=payload.traceparent))

    async def run(self) -> None:
        """Send what is queued, until cancelled."""
        producer = AIOKafkaProducer(**self._arguments, acks=1)
        await producer.start()
        try:
            while True:
                event = await self._queue.get()
                try:
                    await producer.send(self._topic, event.value, key=event.key, headers=event.headers)
                except KafkaError as error:
                    log.debug("progress was not sent", error=repr(error))
        finally:
            await producer.stop()
