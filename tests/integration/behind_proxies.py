"""Settings whose Kafka or S3 is reached through a proxy, so that a test can take either away from one worker alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from darkroom.schemas.settings import Settings
from tests.chaos.proxy import Link, Proxy


@contextlib.asynccontextmanager
async def kafka_behind_a_proxy(settings: Settings) -> AsyncIterator[tuple[Settings, Proxy]]:
    """The settings with the proxy's address, and the proxy. Its link is healed at the end."""
    async with _proxy(settings.kafka.bootstrap_servers, kafka=True) as proxy:
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": f"127.0.0.1:{proxy.port}"})
        yield settings.model_copy(update={"kafka": kafka}), proxy


@contextlib.asynccontextmanager
async def store_behind_a_proxy(settings: Settings) -> AsyncIterator[tuple[Settings, Proxy]]:
    """The same for S3."""
    async with _proxy(settings.s3.endpoint, kafka=False) as proxy:
        s3 = settings.s3.model_copy(update={"endpoint": f"http://127.0.0.1:{proxy.port}"})
        yield settings.model_copy(update={"s3": s3}), proxy


@contextlib.asynccontextmanager
async def _proxy(address: str, *, kafka: bool) -> AsyncIterator[Proxy]:
    proxy = Proxy(int(address.rpartition(":")[2].rstrip("/")), kafka=kafka)
    await proxy.start()
    try:
        yield proxy
    finally:
        proxy.link = Link()
        await proxy.close()
