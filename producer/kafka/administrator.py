"""The admin client that every part of Darkroom uses: it asks another broker where one is away.

aiokafka 0.14's own asks one broker, chosen at random, once. With one broker of three dead a third of all questions
fail with it for as long as metadata names the dead one, which is `broker.session.timeout.ms` and more.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    NotControllerError,
    RequestTimedOutError,
    StaleMetadata,
)

from darkroom.producer.kafka.broker_client import harden

__all__ = ["Administrator"]

RETRY_S: Final = 0.2
"""The pause before all brokers are asked again: a controller is elected in tenths of a second."""
BROKER_S_MAX: Final = 5.0
"""How long one broker of several may take to answer before another is asked."""
METADATA_S_MAX: Final = 5.0
"""How long one refresh of the cluster's brokers may take: a broker that hangs must not use up the time limit."""
_AWAY: Final = (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError, StaleMetadata, TimeoutError)


class Administrator(AIOKafkaAdminClient):  # type: ignore[misc]
    """`AIOKafkaAdminClient` for a cluster some of whose brokers are down. Every question ends within its time limit."""

    def __init__(self, **arguments: Any) -> None:
        """Take what `connection.kafka_arguments` makes; a password in a file is read again when it changes."""
        super().__init__(**arguments)
        harden(self._client)

    async def start(self) -> None:
        """Connect to one of the brokers that the cluster names, where those listen that clients are to use.

        Raises `KafkaConnectionError` where none is reached there, although one answered at the bootstrap address.
        """
        await super().start()
        nodes = [one.nodeId for one in self._client.cluster.brokers()]
        asking = [asyncio.ensure_future(self._client.ready(node)) for node in nodes]
        try:
            for one in asyncio.as_completed(asking):
                if await one:
                    return
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        raise KafkaConnectionError("none of the brokers is reached at the address that it tells clients to use")

    async def _send_request(self, request: Any, node_id: int | None = None) -> Any:
        """Ask one broker, or, without a `node_id`, one after the other until one answers.

        Raises `KafkaError` when none did within the request's time limit, or when the broker that is meant did not.
        """
        if node_id is not None:
            return await super()._send_request(request, node_id)
        deadline = time.monotonic() + self._request_timeout_ms / 1000
        asked: set[int] = set()
        while True:
            node = self._somebody_but(asked)
            left_s = deadline - time.monotonic()
            try:
                async with asyncio.timeout(left_s if self._is_last(asked) else min(BROKER_S_MAX, left_s)):
                    return await super()._send_request(request, node)
            except _AWAY as error:
                if time.monotonic() + RETRY_S > deadline:
                    raise RequestTimedOutError("no broker answered in time") from error
            if node is not None:
                asked.add(node)
            if self._somebody_but(asked) is None:
                asked.clear()
                await self.refresh_brokers()
                await asyncio.sleep(RETRY_S)

    def _somebody_but(self, asked: set[int]) -> int | None:
        nodes = [one.nodeId for one in self._client.cluster.brokers() if one.nodeId not in asked]
        return nodes[time.monotonic_ns() % len(nodes)] if nodes else None

    def _is_last(self, asked: set[int]) -> bool:
        return len(self._client.cluster.brokers()) <= len(asked) + 1

    async def _send_to_controller(self, request: Any) -> Any:
        """Ask the controller, whichever broker that is by now. Repeating a request has to be safe.

        Raises `KafkaError` when none answered within the request's time limit.
        """
        deadline = time.monotonic() + self._request_timeout_ms / 1000
        while True:
            controller = self._client.cluster.controller
            try:
                if controller is None:
                    raise NodeNotReadyError("the brokers name no controller")
                async with asyncio.timeout(max(RETRY_S, deadline - time.monotonic())):
                    return await self._client.send(controller.nodeId, request)
            except (NotControllerError, *_AWAY) as error:
                if time.monotonic() + RETRY_S > deadline:
                    raise RequestTimedOutError("the controller did not answer in time") from error
            await self.refresh_brokers()
            await asyncio.sleep(RETRY_S)

    async def refresh_brokers(self) -> None:
        """Learn of brokers that came and went. Failing to is no error: the next question says what is wrong."""
        try:
            async with asyncio.timeout(METADATA_S_MAX):
                await self._client.force_metadata_update()
        except (KafkaError, TimeoutError):
            return
