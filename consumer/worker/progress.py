"""Progress events for the requests that asked for them: lossy, so nothing ever waits for them.

A new stage is told at once, steps once an interval at the most, and previews as the engine makes them, which has an
interval of its own. What Kafka does not take at once is dropped.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from darkroom.consumer.core.partition_key import JobKey
from darkroom.consumer.worker.payload import Payload, Received
from darkroom.inference import types as engine_says
from darkroom.inference.types import EngineEvent, JobId, Preview
from darkroom.producer.kafka.broker_client import harden
from darkroom.producer.kafka.closing import close
from darkroom.producer.outages import KAFKA
from darkroom.schemas.events.pose import InlinePicture
from darkroom.schemas.events.progress import Progress, Stage
from darkroom.schemas.wire.codec import EncodedEvent, encode_progress

log = structlog.get_logger(__name__)

RETRY_S = 5.0
"""The pause after Kafka refused the connection: progress is a convenience, and the requests go on."""
INTERVAL_S = 0.2
"""The least time between two events of one request that tell of steps alone: as often as a person can see."""
QUEUE_MAX = 1000
"""Events that wait for Kafka; beyond it new ones are dropped. At most 45 MB, were all of them large previews."""
TOLD_MAX = 1000
"""Requests of which it is remembered what was told, before those that are no more are forgotten."""


@dataclass(slots=True)
class _Told:
    """What was told of one job, and what it takes to know the next stage."""

    stage: Stage | None = None
    at: float = float("-inf")
    images_left: int = 0
    """Images that took their last step."""


class ProgressFeed:
    """An observer of the engine's events that publishes some of them."""

    def __init__(
        self,
        topic: str,
        arguments: dict[str, Any],
        worker: str,
        payload_of: Callable[[JobId], tuple[JobKey, Payload] | None],
        *,
        shows_previews: Callable[[], bool] = lambda: True,
    ) -> None:
        """`shows_previews` says whether rough pictures may be published, which no classifier has looked at."""
        self._shows_previews = shows_previews
        self._topic = topic
        self._arguments = arguments
        self._worker = worker
        self._payload_of = payload_of
        self._queue: asyncio.Queue[EncodedEvent] = asyncio.Queue(QUEUE_MAX)
        self._told: dict[JobId, _Told] = {}

    def on_engine(self, event: EngineEvent) -> None:
        """Queue an event for each request that asked and of which there is something new to tell."""
        match event:
            case engine_says.JobPrepared():
                self._tell(event.job_id, "prepare", 0)
            case engine_says.StepDone():
                self._on_step(event)
            case engine_says.JobPreview(job_id, preview) if self._shows_previews():
                self._tell(job_id, "denoise", preview.steps_done, preview)
            case engine_says.JobRendered() | engine_says.JobFailed():
                self._told.pop(event.job_id, None)

    def _on_step(self, event: engine_says.StepDone) -> None:
        for row in event.retired:
            if row.job_id in event.steps_done:
                self._told_of(row.job_id).images_left += 1
        for job_id, steps_done in event.steps_done.items():
            self._tell(job_id, "denoise", steps_done)

    def _tell(self, job_id: JobId, stage: Stage, steps_done: int, preview: Preview | None = None) -> None:
        found = self._payload_of(job_id)
        received = None if found is None else found[1].received
        asked = None if received is None else received.request
        if received is None or received.render is None or asked is None or asked.progress == "none":
            self._told.pop(job_id, None)
            return
        told, now = self._told_of(job_id), asyncio.get_running_loop().time()
        if told.images_left >= received.render.count:
            stage = "finish"
        if stage != told.stage or preview is not None or now - told.at >= INTERVAL_S:
            told.stage, told.at = stage, now
            self._offer(received, stage, steps_done, preview)

    def _told_of(self, job_id: JobId) -> _Told:
        if job_id not in self._told and len(self._told) >= TOLD_MAX:
            # A job that was dropped ends without a word.
            self._told = {one: told for one, told in self._told.items() if self._payload_of(one) is not None}
        return self._told.setdefault(job_id, _Told())

    def _offer(self, received: Received, stage: Stage, steps_done: int, preview: Preview | None) -> None:
        if received.render is None or received.request_id is None or self._queue.full():
            return
        progress = Progress(
            request_id=received.request_id,
            tenant=received.tenant,
            stage=stage,
            steps_done=received.render.steps_after(steps_done),
            steps_total=received.render.steps_taken,
            preview=None if preview is None else InlinePicture(inline=base64.b64encode(preview.content).decode()),
            worker=self._worker,
            at=datetime.now(UTC),
        )
        self._queue.put_nowait(encode_progress(progress, traceparent=received.traceparent))

    async def run(self) -> None:
        """Send what is queued, until cancelled. While Kafka is away, what does not fit into the queue is dropped."""
        while True:
            producer = AIOKafkaProducer(**self._arguments, acks=1)
            harden(producer.client)
            try:
                await producer.start()
                await self._send(producer)
            except (KafkaError, OSError) as error:
                KAFKA.failed("progress", repr(error))
                await asyncio.sleep(RETRY_S)
            finally:
                await close(producer)

    async def _send(self, producer: AIOKafkaProducer) -> None:
        KAFKA.answered("progress")
        while True:
            event = await self._queue.get()
            try:
                await producer.send(self._topic, event.value, key=event.key, headers=event.headers)
            except KafkaError as error:
                log.debug("progress was not sent", error=repr(error))
                KAFKA.failed("progress", repr(error), answers=False)
