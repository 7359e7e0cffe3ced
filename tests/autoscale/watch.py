"""What happens over time: lag as KEDA counts it, replicas as Kubernetes has them, pods as processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from darkroom.producer.kafka.connection import administering, kafka_arguments
from darkroom.producer.kafka.reader import TopicPartition, partitions_of
from darkroom.schemas.settings import Settings
from tests.autoscale.api import ApiError
from tests.autoscale.case import TooLong
from tests.autoscale.deployment import Deployment
from tests.autoscale.kubelet import Kubelet

LOOK_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Times are seconds of the wall clock."""

    at: float
    lags: Mapping[int, int]
    """By partition: high watermark minus what the group has committed; all of it where nothing was committed."""
    wanted: int
    """The Deployment's replicas."""
    running: int
    """Its pods whose process lives."""
    ready: int
    active: bool
    """KEDA sees work."""

    @property
    def lag(self) -> int:
        """Of all partitions."""
        return sum(self.lags.values())


class Lag:
    """Of one group on its request topic, counted as KEDA counts it under `earliest`."""

    def __init__(
        self,
        admin: AIOKafkaAdminClient,
        consumer: AIOKafkaConsumer,
        places: Collection[TopicPartition],
        settings: Settings,
    ) -> None:
        self._admin = admin
        self._consumer = consumer
        self._places = places
        self._settings = settings

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, settings: Settings) -> AsyncIterator[Lag]:
        """Connected for a while. Raises `KafkaUnavailable`."""
        places = await partitions_of(settings.kafka, [settings.topics.requests])
        consumer = AIOKafkaConsumer(**kafka_arguments(settings.kafka), enable_auto_commit=False)
        async with administering(settings.kafka, "watching the lag") as admin:
            await consumer.start()
            try:
                yield cls(admin, consumer, places, settings)
            finally:
                await consumer.stop()

    async def committed(self) -> dict[int, int]:
        """The group's offsets by partition."""
        found = await self._admin.list_consumer_group_offsets(self._settings.kafka.group_id)
        topic = self._settings.topics.requests
        return {place.partition: one.offset for place, one in found.items() if place.topic == topic and one.offset >= 0}

    async def by_partition(self) -> dict[int, int]:
        """Records by partition."""
        committed = await self.committed()
        ends: dict[TopicPartition, int] = await self._consumer.end_offsets(self._places)
        return {place.partition: end - committed.get(place.partition, 0) for place, end in ends.items()}


class Watch:
    """Looks twice a second, keeps every look, and lets others wait for what they hope to see."""

    def __init__(self, deployment: Deployment, kubelet: Kubelet, lag: Lag) -> None:
        self.samples: list[Sample] = []
        self._deployment = deployment
        self._kubelet = kubelet
        self._lag = lag

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[Watch]:
        """Looks while inside; a look that fails ends it with its error."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._run())
            yield self
            task.cancel()

    async def until(self, what: str, seen: Callable[[Sample], bool], limit_s: float) -> Sample:
        """The first look from now on at which it holds. Raises `TooLong`."""
        first = len(self.samples)
        deadline = time.monotonic() + limit_s
        while True:
            for sample in self.samples[first:]:
                if seen(sample):
                    return sample
            first = len(self.samples)
            if time.monotonic() > deadline:
                last = self.samples[-1] if self.samples else "nothing"
                raise TooLong(f"waited {limit_s:.0f} s for {what}; the last look saw {last}")
            await asyncio.sleep(LOOK_S / 2)

    def workers(self) -> list[str]:
        """The names of the worker pods whose process lives."""
        pods = tuple(self._kubelet.pods.values())
        return [pod.name for pod in pods if pod.is_running and "-worker-" in pod.name]

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(ApiError, KafkaError):  # one look less
                self.samples.append(await self._look())
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> Sample:
        lags = await self._lag.by_partition()
        wanted, ready = await asyncio.to_thread(self._deployment.workers)
        active = await asyncio.to_thread(self._deployment.is_active)
        return Sample(time.time(), lags, wanted, len(self.workers()), ready, active)
