"""Proves that the proxy does to a connection what the chaos runs rely on, and that Kafka's clients stay behind it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.chaos.proxy import LOOPBACK, Link, Proxy

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

LIMIT_S = 20.0
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def proxied(handler: Handler, *, kafka: bool = False) -> AsyncIterator[tuple[Proxy, int]]:
    """A server and a proxy in front of it, and the server's own port."""
    server = await asyncio.start_server(handler, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    proxy = Proxy(port, kafka=kafka)
    await proxy.start()
    try:
        async with asyncio.timeout(LIMIT_S):
            yield proxy, port
    finally:
        await proxy.close()
        server.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1000):
        writer.write(chunk)
    writer.close()


async def test_a_healthy_link_passes_everything_and_a_dead_one_holds_it_until_it_is_healed() -> None:
    async with proxied(echo) as (proxy, _):
        reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
        writer.write(b"one")
        assert await reader.readexactly(3) == b"one"
        proxy.link = Link(is_dead=True)
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(3), 0.3)
        proxy.link = Link()
        assert await reader.readexactly(3) == b"two"
        writer.close()


async def test_a_slow_link_delays_and_a_narrow_one_limits() -> None:
    async with proxied(echo) as (proxy, _):
        reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
        for link in (Link(latency_s=0.1), Link(bytes_per_s=50)):
            proxy.link = link
            begun = time.monotonic()
            writer.write(b"12345")
            await reader.readexactly(5)
            assert time.monotonic() - begun >= 0.2, "there and back"
        writer.close()


async def test_a_cut_ends_open_connections_and_new_ones_work_unless_they_are_refused() -> None:
    async with proxied(echo) as (proxy, _):
        reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
        writer.write(b"one")
        await reader.readexactly(3)
        assert proxy.cut() == 1
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b""
        proxy.link = Link(refuses=True)
        reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read(1) == b""
        proxy.link = Link()
        reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
        writer.write(b"two")
        assert await reader.readexactly(3) == b"two"
        writer.close()


async def test_a_broker_address_is_replaced_wherever_a_packet_ends() -> None:
    ports: list[int] = []

    async def broker(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b"before " + LOOPBACK.encode() + struct.pack(">i", ports[0]) + b" after 127.0.0.1"
        answer = struct.pack(">i", len(body)) + body
        for at in range(len(answer)):
            writer.write(answer[at : at + 1])
            await writer.drain()
            await asyncio.sleep(0)

    async with proxied(broker, kafka=True) as (proxy, port):
        ports.append(port)
        reader, writer = await asyncio.open_connection(LOOPBACK, proxy.port)
        (length,) = struct.unpack(">i", await reader.readexactly(4))
        body = await reader.readexactly(length)
        assert body == b"before " + LOOPBACK.encode() + struct.pack(">i", proxy.port) + b" after 127.0.0.1"
        writer.close()


@pytest.mark.stack
async def test_kafka_clients_never_leave_the_proxy(stack: Stack) -> None:
    port = int(stack.environment["DARKROOM_KAFKA__BOOTSTRAP_SERVERS"].rpartition(":")[2])
    proxy = Proxy(port, kafka=True)
    await proxy.start()
    address = f"{LOOPBACK}:{proxy.port}"
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    producer = AIOKafkaProducer(bootstrap_servers=address, transactional_id="proxied")
    consumer = AIOKafkaConsumer("proxied", bootstrap_servers=address, group_id="proxied", auto_offset_reset="earliest")
    try:
        await admin.start()
        await admin.create_topics([NewTopic("proxied", 1, 1)])
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait("proxied", b"value")
        await consumer.start()  # through the group's coordinator, whose address comes in another answer
        assert (await asyncio.wait_for(consumer.getone(), LIMIT_S)).value == b"value"
        for client in (admin._client, producer.client, consumer._client):
            assert {broker.port for broker in client.cluster.brokers()} == {proxy.port}
    finally:
        for part in (consumer.stop(), producer.stop(), admin.close()):
            await part
        await proxy.close()
