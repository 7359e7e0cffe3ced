"""Opens the services that the routes use: the store, the publisher, the backlog and the hub; and probes them."""

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
from darkroom.producer.gateway.jobs.catalogue import Catalogue, CatalogueFeed
from darkroom.producer.gateway.jobs.feed import Feed
from darkroom.producer.gateway.jobs.hub import Hub
from darkroom.producer.gateway.jobs.publisher import Publisher
from darkroom.producer.gateway.jobs.queue import Backlog, Queue
from darkroom.producer.kafka.refusals import log_in_trouble
from darkroom.producer.outages import STORE
from darkroom.producer.store.objects import StoreUnavailable
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.producer.tasks import TaskSupervisor
from darkroom.schemas.events.completion import Completion, Source
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings

PROBE_KEY = ".darkroom/gateway-probe"
"""The key that probes look up, after the prefix. It need not exist, and no tenant begins with a dot."""


class Publishing(Protocol):
    """Sends to Kafka. Both methods raise `KafkaUnavailable` within `gateway.kafka_timeout_s`."""

    async def publish(self, request: GenerationRequest) -> Source:
        """Send a request, and return its place once all brokers have it."""

    async def cancel(self, tenant: str, request_id: str, reason: str | None) -> None:
        """Send a cancellation."""


class Queueing(Protocol):
    """Reads the backlog. All methods raise `KafkaUnavailable` within `gateway.kafka_timeout_s`."""

    async def backlog(self) -> Backlog:
        """Return the backlog, at most a second old."""

    async def partition_of(self, request_id: str) -> int:
        """Return the partition that Darkroom's producers choose for a request id."""

    async def offset_at(self, partition: int, moment: datetime) -> int:
        """Return the offset of the first record that is not older than `moment`, or the partition's end."""


@dataclass(frozen=True, slots=True)
class Services:
    """The open services."""

    store: BoundedStore
    publisher: Publishing
    queue: Queueing
    hub: Hub
    catalogue: Catalogue
    unready: Callable[[], list[str]]
    """Returns the sentences that say why this process should get no calls at the moment."""


OpenServices = Callable[[Settings, Callable[[Completion], None], TaskSupervisor], AbstractAsyncContextManager[Services]]
"""Opens the services. Is given the settings, what to call with each completion, and the owner of background tasks."""


def new_hub(settings: Settings) -> Hub:
    """Return a hub with the settings' bounds."""
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
    """Open Kafka and S3. Returns at once: a service that cannot be reached is retried in the background and logged.

    Raises `SettingsError` for certificates that cannot be loaded.
    """
    hub = new_hub(settings)
    publisher, queue, feed = Publisher(settings), Queue(settings), Feed(settings, hub, on_completion)
    catalogue = Catalogue(hub, kept_max=settings.gateway.jobs_listed_max)
    catalogue_feed = CatalogueFeed(settings, catalogue, kept_max=settings.gateway.jobs_listed_max)
    async with MinioObjects(hurried(settings.s3, settings.gateway.store_timeout_s)) as objects:
        store = BoundedStore(objects, settings.gateway.store_timeout_s)
        probes = _Probes(
            settings,
            objects,
            store=store,
            publisher=publisher,
            queue=queue,
            feed=feed,
            hub=hub,
            catalogue=catalogue_feed,
        )
        tasks.keep("publisher", publisher.run, matters="nothing can be sent to Kafka")
        tasks.keep("queue", queue.run, matters="the backlog is unknown")
        tasks.keep("feed", feed.run, matters="completions and progress are not followed")
        tasks.keep("catalogue", catalogue_feed.run, matters="the list of jobs is not kept up to date")
        tasks.keep("probes", probes.run, matters="it is unknown whether Kafka and the object store answer")
        try:
            yield Services(store, publisher, queue, hub, catalogue, probes.unready)
        finally:
            await tasks.close()


class _Probes:
    """Probes Kafka and the store regularly, whether anybody calls or not."""

    def __init__(
        self,
        settings: Settings,
        objects: MinioObjects,
        *,
        store: BoundedStore,
        publisher: Publisher,
        queue: Queue,
        feed: Feed,
        hub: Hub,
        catalogue: CatalogueFeed,
    ) -> None:
        self._settings = settings
        self._objects = objects
        self._store = store
        self._publisher = publisher
        self._queue = queue
        self._feed = feed
        self._hub = hub
        self._catalogue = catalogue
        self._has_bucket = False

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            await asyncio.gather(self._ask_store(), self._ask_kafka())
            await asyncio.sleep(self._settings.gateway.probe_s if self._has_bucket else 1.0)

    async def _ask_store(self) -> None:
        try:
            if not self._has_bucket:
                # A worker or a gateway, whichever comes first, creates the bucket. Both need its conditional puts.
                await self._objects.ensure_bucket(retention_days=self._settings.s3.retention_days)
                self._has_bucket = True
            await self._store.stat(f"{self._store.prefix}{PROBE_KEY}")
        except StoreUnavailable as error:
            STORE.failed("probes", error)
        else:
            STORE.answered("probes")

    async def _ask_kafka(self) -> None:
        with contextlib.suppress(Exception):  # the queue logs and reconnects itself
            await self._queue.backlog()

    def unready(self) -> list[str]:
        """Return the sentences for `Services.unready`."""
        gateway = self._settings.gateway
        old = time.monotonic() - 2 * gateway.probe_s - max(gateway.kafka_timeout_s, gateway.store_timeout_s)
        reasons = []
        if not self._has_bucket or self._store.reached_at < old:
            reasons.append(f"The object store has not answered lately. {STORE.error}".rstrip())
        if not self._hub.is_following or max(self._queue.reached_at, self._publisher.reached_at) < old:
            reasons.append("Kafka has not answered lately.")
        if not self._catalogue.has_read:
            reasons.append("The topics have not been read for the list of jobs yet.")
        if (trouble := log_in_trouble(self._settings.kafka)) is not None:
            reasons.append(trouble)
        denied = (self._publisher.denied, self._queue.denied, self._feed.denied, self._catalogue.denied)
        reasons += [why for why in dict.fromkeys(denied) if why is not None]
        if self._publisher.reached_at == float("-inf"):
            reasons.append("There has been no connection to Kafka yet, so nothing can be sent.")
        return reasons
