"""Closes clients of aiokafka within a limit, whatever their own tasks do.

aiokafka 0.14 cancels each task of a client once and then waits for it without a limit, and whoever is cancelled while
it waits there loses the cancellation (`suppress(CancelledError)` round `await task`). A producer whose `stop` is itself
cancelled leaves its sender and its connections open: the sender repeats the transaction until a successor fences it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, ProducerClosed

from darkroom.producer.tasks import cancel_until_done

__all__ = ["CLOSE_S_MAX", "close"]

CLOSE_S_MAX: Final = 5.0
"""How long a client may take to close: to leave its group, to flush. What a broker that is away would be told is lost
with or without a longer wait."""

_ending: Final[set[asyncio.Task[None]]] = set()
"""The event loop itself holds tasks weakly."""


async def close(client: Any, limit_s: float = CLOSE_S_MAX) -> None:
    """Close an `AIOKafkaProducer`, `AIOKafkaConsumer` or `AIOKafkaAdminClient`. Never raises its errors.

    After `limit_s`, or where the caller is cancelled meanwhile, its tasks are cancelled and its connections cut, and
    nothing of them is waited for. Records that it still had end with `ProducerClosed` for whoever waits for them, and
    questions for its metadata with `KafkaConnectionError`, where aiokafka leaves both waiting for ever.
    """
    stop = client.close() if isinstance(client, AIOKafkaAdminClient) else client.stop()
    closing = asyncio.get_running_loop().create_task(stop, name="close a Kafka client")
    try:
        await asyncio.wait({closing}, timeout=limit_s)
    finally:
        # One of its tasks that was cancelled before it began, or that ended with an error, ends the closing half-way.
        if not closing.done() or closing.cancelled() or closing.exception() is not None:
            closing.cancel()
            _abandon(client)
        _fail_waiters(_connections_of(client))


def _abandon(client: Any) -> None:
    ending = asyncio.get_running_loop().create_task(cancel_until_done(list(_tasks(client))), name="end a Kafka client")
    _ending.add(ending)
    ending.add_done_callback(_ending.discard)
    if isinstance(client, AIOKafkaProducer):
        # A sender that is cancelled leaves whoever waits for a record waiting for ever.
        client._message_accumulator.fail_all(ProducerClosed())
    for connection in list(_connections_of(client)._conns.values()):
        with contextlib.suppress(OSError, RuntimeError):
            connection.close()


def _fail_waiters(connections: AIOKafkaClient) -> None:
    """End the wait of whoever waits for this client's metadata, now or later: nobody asks for them any more."""
    refused: asyncio.Future[Any] = connections._md_update_fut or asyncio.get_running_loop().create_future()
    if not refused.done():
        refused.set_exception(KafkaConnectionError("the client was closed"))
        refused.exception()  # read, lest asyncio tells of it where nobody waits
    connections._md_update_fut = refused


def _connections_of(client: Any) -> AIOKafkaClient:
    return client.client if isinstance(client, AIOKafkaProducer) else client._client


def _tasks(client: Any) -> Iterator[asyncio.Task[Any]]:
    """Yield the tasks that a client runs in the background, as far as it was started."""
    connections = _connections_of(client)
    coordinator, fetcher = getattr(client, "_coordinator", None), getattr(client, "_fetcher", None)
    held = [
        connections._sync_task,
        *(connection._read_task for connection in connections._conns.values()),
        getattr(getattr(client, "_sender", None), "_sender_task", None),
        getattr(fetcher, "_fetch_task", None),
        *(getattr(fetcher, "_pending_tasks", None) or ()),
        getattr(coordinator, "_coordination_task", None),
        getattr(coordinator, "_heartbeat_task", None),
        getattr(coordinator, "_commit_refresh_task", None),
        getattr(coordinator, "_reset_committed_task", None),
    ]
    return (task for task in held if task is not None and not task.done())
