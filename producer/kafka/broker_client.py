"""Connections of all Kafka clients of Darkroom: no broker that hangs holds up what another one could answer.

aiokafka 0.14 gives every connection and every question the whole request time limit, and connects to one broker at a
time. So a broker that is frozen, or behind a firewall that drops packets, uses up the limit of a command that any other
broker would have served: at the bootstrap, at each refresh of the metadata, and where offsets are asked for while
another broker is about to become the leader.

aiokafka has no seam for this: a client makes its connections itself, and producers, consumers and admin clients make
their client themselves. So `harden` gives the client that is there another class.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable
from typing import Any, Final

from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from darkroom.producer.kafka.passwords import Password
from darkroom.producer.kafka.tokens import TokenProvider

__all__ = ["BROKER_S_MAX", "CLUSTER_S_MAX", "harden"]

BROKER_S_MAX: Final = 5.0
"""How long one broker may take to connect, or to answer what any broker knows at once, before another is asked.

Doubled each time that the same broker fails to connect in a row, up to the request's time limit: a broker that is slow
and not dead is let in at last, as with the Java client's `socket.connection.setup.timeout.max.ms`.
"""
CLUSTER_S_MAX: Final = 30.0
"""How long a command waits for what one broker alone can do: to tell a partition's offsets, to coordinate a group.

A broker that dies is missed after Kafka's `broker.session.timeout.ms` (9 s by default); then another one takes over,
and a coordinator reads its log first.
"""
_QUICK: Final = frozenset({MetadataRequest.API_KEY, OffsetRequest.API_KEY, FindCoordinatorRequest.API_KEY})
"""Questions that a broker answers from memory, and that may be asked again."""


def harden(client: AIOKafkaClient) -> None:
    """Let a client that was made of `kafka_arguments` ask other brokers in time, and log in with today's password.

    To be called before the client connects.
    """
    client.__class__ = _Hardened


class _Hardened(AIOKafkaClient):  # type: ignore[misc]
    """Made by `harden` alone, so its `__init__` is the base class's, and what is its own begins as class attributes."""

    _request_timeout_ms: float
    _failures: dict[Any, int] | None = None
    """How often in a row each broker was not connected to in time."""
    _locks: dict[Any, asyncio.Lock] | None = None

    @property
    def _sasl_plain_password(self) -> Any:
        password = self.__dict__["_sasl_plain_password"]
        return password.renewed() if isinstance(password, Password) else password

    @property
    def _get_conn_lock(self) -> Any:
        """The base class's one lock for all brokers, under which a broker that hangs makes all others wait: none."""
        return contextlib.nullcontext()

    async def bootstrap(self) -> None:
        """As the base class, with `BROKER_S_MAX` a broker. Brokers that hung are asked again until the time limit."""
        whole_ms = self._request_timeout_ms
        deadline = time.monotonic() + whole_ms / 1000
        while True:
            begun = time.monotonic()
            self._request_timeout_ms = max(1, min(whole_ms, BROKER_S_MAX * 1000, (deadline - begun) * 1000))
            try:
                await super().bootstrap()
            except KafkaConnectionError:
                # Where nobody hung, everybody refused: that is an answer.
                now = time.monotonic()
                self._tell_tokens(connected=False)
                if now - begun < BROKER_S_MAX or now >= deadline:
                    raise
            else:
                self._tell_tokens(connected=True)
                return
            finally:
                self._request_timeout_ms = whole_ms

    async def _get_conn(self, node_id: Any, **named: Any) -> Any:
        """As the base class: a connection, or None. One broker is connected to once at a time, and within a limit."""
        place = (node_id, named.get("group", ConnectionGroup.DEFAULT))
        self._locks, self._failures = self._locks or {}, self._failures or {}
        lock = self._locks.setdefault(place, asyncio.Lock())
        failed, connection = self._failures.get(place, 0), None
        try:
            async with asyncio.timeout(min(self._request_timeout_ms / 1000, BROKER_S_MAX * 2.0**failed)):
                async with lock:
                    connection = await super()._get_conn(node_id, **named)
        except TimeoutError:
            self._failures[place] = failed + 1
            self.force_metadata_update()
            return None
        finally:
            self._tell_tokens(connected=connection is not None)
        if connection is not None:
            self._failures.pop(place, None)
            connection.__class__ = _Connection
        return connection

    def _tell_tokens(self, *, connected: bool) -> None:
        provider = self._sasl_oauth_token_provider
        if isinstance(provider, TokenProvider):
            provider.tried(connected=connected)


class _Connection(AIOKafkaConnection):  # type: ignore[misc]
    """Made by `_Hardened` alone."""

    def send(self, request: Any, expect_response: bool = True) -> Any:
        """As the base class: an awaitable of the answer, which is waited for a shorter time where any broker has it."""
        answer = super().send(request, expect_response)
        return _within(answer, BROKER_S_MAX) if request.API_KEY in _QUICK else answer


async def _within(answer: Awaitable[Any], limit_s: float) -> Any:
    async with asyncio.timeout(limit_s):
        return await answer
