"""A TCP proxy whose link can be made slow, narrow, cut or dead, and healed, while connections are open.

Kafka needs one thing more: its clients connect again to the address that the broker names in its answers. The proxy
in front of it reads the broker's frames (a length of four bytes, then the answer) and puts its own port where the
broker named its port. Host and port stand side by side in every answer that names a broker, and the new port is as
long as the old one, so nothing else of the frame changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from dataclasses import dataclass
from typing import Final

CHUNK_BYTES: Final = 64 * 1024
CLOSE_S_MAX: Final = 2.0
LOOPBACK: Final = "127.0.0.1"


@dataclass(slots=True)
class Link:
    """What is done to what passes. All at once, if need be; the default is a link without faults."""

    latency_s: float = 0.0
    """Added to every chunk, in each direction."""
    bytes_per_s: float | None = None
    """The most that passes in one direction of one connection."""
    is_dead: bool = False
    """Nothing passes and nothing is closed. What was held comes through when the link is healed, as late packets do."""
    refuses: bool = False
    """New connections are closed at once."""


class Proxy:
    """One listener on loopback in front of one server. For one event loop."""

    def __init__(self, target_port: int, *, kafka: bool = False) -> None:
        self._target_port = target_port
        self._kafka = kafka
        self._link = Link()
        self._alive = asyncio.Event()
        self._alive.set()
        self._open: dict[asyncio.Task[None], tuple[asyncio.StreamWriter, ...]] = {}
        self.port = 0

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, LOOPBACK, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop what is open."""
        self._server.close()
        self._alive.set()
        self._link = Link(refuses=True)
        open_now = list(self._open)
        self.cut()
        if open_now:  # they end by themselves; the streams of asyncio complain of handlers that are cancelled
            await asyncio.wait(open_now, timeout=CLOSE_S_MAX)

    @property
    def link(self) -> Link:
        """The link as it is."""
        return self._link

    @link.setter
    def link(self, link: Link) -> None:
        self._link = link
        if link.is_dead:
            self._alive.clear()
        else:
            self._alive.set()

    def cut(self) -> int:
        """Reset every open connection; how many there were."""
        writers = [writer for pair in self._open.values() for writer in pair]
        for writer in writers:
            writer.transport.abort()
        return len(self._open)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open[task] = (writer,)
        try:
            if self._link.refuses:
                return
            await self._alive.wait()
            far_reader, far_writer = await asyncio.open_connection(LOOPBACK, self._target_port)
            self._open[task] = (writer, far_writer)
            await self._relay((reader, far_writer), (far_reader, writer))
        except OSError:
            pass  # the server is away: its clients see that the connection ends
        finally:
            for one in self._open.pop(task):
                one.transport.abort()

    async def _relay(self, *ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        """Both directions until one of them ends."""
        there, back = ways
        pumps = {asyncio.create_task(self._pump(*there, frames=False))}
        pumps.add(asyncio.create_task(self._pump(*back, frames=self._kafka)))
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, frames: bool) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while chunk := await (self._frame(reader) if frames else reader.read(CHUNK_BYTES)):
                await self._pass(len(chunk))
                writer.write(chunk)
                await writer.drain()

    async def _pass(self, size_bytes: int) -> None:
        """Wait as long as the link makes a chunk wait."""
        link = self._link
        delay_s = link.latency_s + (size_bytes / link.bytes_per_s if link.bytes_per_s else 0.0)
        if delay_s:
            await asyncio.sleep(delay_s)
        await self._alive.wait()

    async def _frame(self, reader: asyncio.StreamReader) -> bytes:
        header = await reader.readexactly(4)
        body = await reader.readexactly(struct.unpack(">i", header)[0])
        return header + body.replace(_broker(self._target_port), _broker(self.port))


def _broker(port: int) -> bytes:
    """A broker's address as answers have it: the host's text, then the port in four bytes (Kafka protocol guide)."""
    return LOOPBACK.encode() + struct.pack(">i", port)
