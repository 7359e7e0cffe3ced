"""What the routes work with, and how it is opened: the store, the way to Kafka, and what is followed of it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from darkroom.producer.gateway.bounded_store import BoundedStore, hurried
from darkroom.producer.gateway.jobs.feed import Feed
from darkroom.producer.gateway.jobs.hub import Hub
from darkroom.producer.gateway.jobs.outlet import Outlet
from darkroom.producer.gateway.jobs.queue import Backlog, Queue
from darkroom.producer.outages import STORE
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.producer.tasks import TaskSupervisor
from darkroom.schemas.events.completion import Completion, Source
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings

PROBE_KEY = ".darkroom/gateway-probe"
"""An object that need not exist, after the prefix. Tenants never begin with a dot, so it is no request's key."""


class Publishing(Protocol):
    """The way out to Kafka. Both raise `KafkaUnavailable` within `gateway.kafka_timeout_s`."""

    async def publish(self, request: GenerationRequest, *, traceparent: str | None = None) -> Source:
        """Send a request. Where it stands, once all replicas have it."""

    async def cancel(self, tenant: str, request_id: str, reason: str | None) -> None:
        """Publish a cancellation."""


class Queueing(Protocol):
    """The requests topic seen from outside. All raise `KafkaUnavailable` within `gateway.kafka_timeout_s`."""

    async def backlog(self) -> Backlog:
        """What waits, as of a second ago at the most."""

    async def partition_of(self, request_id: str) -> int:
        """The partition that this product's producers choose for a request id."""

    async def offset_at(self, partition: int, moment: datetime) -> int:
        """The offset of the first record that is not older than `moment`, or the end where there is none."""


@dataclass(frozen=True, slots=True)
class Services:
    """All of it, opened."""

    store: BoundedStore
    outlet: Publishing
    queue: Queueing
    hub: Hub
    unready: Callable[[], list[str]]
    """The sentences that say why this process should get no calls at the moment; empty when it should."""


OpenServices = Callable[[Settings, Callable[[Completion], None], TaskSupervisor], AbstractAsyncContextManager[Services]]
"""Opens them, with what is told of each completion, and with the owner of the tasks that follow and probe."""


def new_hub(settings: Settings) -> Hub:
    """A hub with the settings' bounds."""
    gateway = settings.gateway
    return Hub(
        clock=time.monotonic,
        completions_max=gateway.completions_kept_max,
        progress_max=gateway.progress_kept_max,
        progress_bytes_max=gateway.progress_kept_bytes,
    )


@contextlib.asynccontextmanager
async def connected(
    settings: Settings, on_completion: Callable[[Completion], None], tasks: TaskSupervisor
) -> AsyncIterator[Services]:
    """The real ones. Returns at once: what is not reached yet is tried again in the background, and told of.

    Raises `SettingsError` for certificates that cannot be loaded.
    """
    hub = new_hub(settings)
    outlet, queue, feed = Outlet(settings), Queue(settings), Feed(settings, hub, on_completion)
    async with MinioObjects(hurried(settings.s3, settings.gateway.store_timeout_s)) as objects:
        store = BoundedStore(objects, settings.gateway.store_timeout_s)
        probes = _Probes(settings, objects, store=store, outlet=outlet, queue=queue, feed=feed, hub=hub)
        tasks.keep("outlet", outlet.run, matters="nothing can be sent to Kafka")
        tasks.keep("queue", queue.run, matters="it is not known how much waits")
        tasks.keep("feed", feed.run, matters="completions and progress are not followed")
        tasks.keep("probes", probes.run, matters="it is not known whether Kafka and the object store answer")
        try:
            yield Services(store, outlet, queue, hub, probes.unready)
        finally:
            await tasks.close()


class _Probes:
    """Asks Kafka and the store for their health, whether anybody calls or not."""

    def __init__(
        self,
        settings: Settings,
        objects: MinioObjects,
        *,
        store: BoundedStore,
        outlet: Outlet,
        queue: Queue,
        feed: Feed,
        hub: Hub,
    ) -> None:
        self._settings = settings
        self._objects = objects
        self._store = store
        self._outlet = outlet
        self._queue = queue
        self._feed = feed
        self._hub = hub
        self._has_bucket = False

    async def run(self) -> None:
        while True:
            await asyncio.gather(self._ask_store(), self._ask_kafka())
            await asyncio.sleep(self._settings.gateway.probe_s if self._has_bucket else 1.0)

    async def _ask_store(self) -> None:
        try:
            if not self._has_bucket:
                # Whoever comes first makes the bucket, a worker or a gateway; both need its conditional puts.
                await self._objects.ensure_bucket(retention_days=self._settings.s3.retention_days)
                self._has_bucket = True
            await self._store.stat(f"{self._store.prefix}{PROBE_KEY}")
        except StoreUnavailable as error:
            STORE.failed("probes", error)
        else:
            STORE.answered("probes")

    async def _ask_kafka(self) -> None:
        with contextlib.suppress(Exception):  # the queue says and mends it itself
            await self._queue.backlog()

    def unready(self) -> list[str]:
        """As `Services.unready` says."""
        gateway = self._settings.gateway
        old = time.monotonic() - 2 * gateway.probe_s - max(gateway.kafka_timeout_s, gateway.store_timeout_s)
        reasons = []
        if not self._has_bucket or self._store.reached_at < old:
            reasons.append("The object store has not answered lately.")
        if not self._hub.is_following or max(self._queue.reached_at, self._outlet.reached_at) < old:
            reasons.append("Kafka has not answered lately.")
        denied = (self._outlet.denied, self._queue.denied, self._feed.denied)
        reasons += [why for why in dict.fromkeys(denied) if why is not None]
        if self._outlet.reached_at == float("-inf"):
            reasons.append("Kafka was not connected to yet, so nothing can be sent.")
        return reasons
