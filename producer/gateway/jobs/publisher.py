"""Publishes to Kafka through one client that is kept connected and replaced when it fails.

A producer that lost a batch has a gap in its sequence, after which aiokafka cannot use it. It is replaced in the
background, and callers are told meanwhile that Kafka is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Final

from darkroom.producer.client.client import Client
from darkroom.producer.kafka.connection import KafkaDenied, KafkaUnavailable
from darkroom.producer.kafka.rights_check import check_rights
from darkroom.producer.kafka.topics import TopicRefused, ensure_topics
from darkroom.producer.outages import KAFKA
from darkroom.schemas.errors import RequestRejected
from darkroom.schemas.events.completion import Source
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import GATEWAY_SOURCE
from darkroom.schemas.rights import Role
from darkroom.schemas.settings import Settings

AGAIN_S: Final = 1.0
"""Seconds between two tries to connect: soon enough for callers who retry, and no storm on a starting broker."""


class Publisher:
    """Publishes requests and cancellations while `run` runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Client | None = None
        self._broken = asyncio.Event()
        self.denied: str | None = None
        """What Kafka does not allow this process, from a refused connection to the next good one."""
        self.reached_at = float("-inf")
        """When Kafka last accepted a record or a connection, by the monotonic clock in seconds."""

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                # All rights of a gateway, so that a missing one is reported before a caller needs it.
                await check_rights(self._settings, Role.GATEWAY)
                await ensure_topics(self._settings)
                async with Client(self._settings, follow=False, source=GATEWAY_SOURCE) as client:
                    await client.prepare_to_send()
                    self.denied = None
                    self._broken.clear()
                    self._client, self.reached_at = client, time.monotonic()
                    KAFKA.answered("publisher")
                    try:
                        await self._broken.wait()
                    finally:
                        self._client = None
            except (KafkaUnavailable, TopicRefused) as error:
                self.denied = str(error) if isinstance(error, KafkaDenied | TopicRefused) else None
                KAFKA.failed("publisher", error)
            await asyncio.sleep(AGAIN_S)

    async def publish(self, request: GenerationRequest) -> Source:
        """Send a request; return its place once all brokers have it. Raises `KafkaUnavailable`, `RequestRejected`."""
        async with self._connected("sending a request") as client:
            return await client.send_one(request)

    async def cancel(self, tenant: str, request_id: str, reason: str | None) -> None:
        """Send a cancellation. Raises `KafkaUnavailable`."""
        async with self._connected("sending a cancellation") as client:
            await client.cancel(request_id, tenant=tenant, reason=reason)

    @contextlib.asynccontextmanager
    async def _connected(self, doing: str) -> AsyncIterator[Client]:
        client = self._client
        where = self._settings.kafka.bootstrap_servers
        if client is None:
            raise KafkaUnavailable(
                f"There is no connection to Kafka at {where} at the moment. Try again in a few seconds."
            )
        try:
            async with asyncio.timeout(self._settings.gateway.kafka_timeout_s):
                yield client
        except TimeoutError as error:
            self._broken.set()
            raise KafkaUnavailable(
                f"Kafka at {where} did not answer within {self._settings.gateway.kafka_timeout_s:g} s while {doing}. "
                "Check that it runs and can be reached."
            ) from error
        except RequestRejected:  # raised before anything was sent
            raise
        except Exception:  # whatever it is, a new client is free of it
            self._broken.set()
            raise
        self.reached_at = time.monotonic()
