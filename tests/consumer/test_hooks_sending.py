"""One callback to receivers of every kind: that answer, redirect, say nothing, or never end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from darkroom.consumer.hooks.sending import Message, Refused, Sender
from darkroom.producer.callbacks.addresses import Addressees
from darkroom.producer.callbacks.signing import secret_bytes
from tests.producer.test_callbacks import SECRET

LOOPBACK = ("127.0.0.0/8", "::1/128")
TIMEOUT_S = 0.5
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def saying(text: str) -> Answer:
    """Return a receiver that answers so."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text.encode())
        await writer.drain()

    return answer


def without_end(begins: bytes, goes_on: bytes) -> Answer:
    """Return a receiver that never stops to answer."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begins)
        while True:
            writer.write(goes_on)
            await writer.drain()

    return answer


async def silence(_: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
    """Take the callback, and never answer."""
    await asyncio.sleep(60)


@contextlib.asynccontextmanager
async def receiving(answer: Answer) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Listen on a port, and note what is posted there."""
    posted: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            posted.append(head + await reader.readexactly(len(b'{"x":1}')))
            await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], posted
    finally:
        server.close()


async def send(url: str, networks: tuple[str, ...] = LOOPBACK) -> None:
    """Post a callback."""
    sender = Sender(Addressees(networks), timeout_s=TIMEOUT_S)
    async with asyncio.timeout(20 * TIMEOUT_S):
        await sender.send(Message("msg_1", url, b'{"x":1}'), [secret_bytes(SECRET)])


async def test_a_callback_is_posted_signed_under_the_name_that_was_asked_for() -> None:
    async with receiving(saying("HTTP/1.1 204 No Content\r\n\r\n")) as (port, posted):
        await send(f"http://localhost:{port}/done?x=y")
    [call] = posted
    head, _, body = call.decode().partition("\r\n\r\n")
    lines = head.lower().split("\r\n")
    assert lines[0] == "post /done?x=y http/1.1"
    assert f"host: localhost:{port}" in lines
    assert "content-type: application/json" in lines
    assert "webhook-id: msg_1" in lines
    assert any(line.startswith("webhook-signature: v1,") for line in lines)
    assert body == '{"x":1}'


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
async def test_a_redirect_is_no_delivery_and_nobody_goes_there(status: str) -> None:
    async with receiving(saying("HTTP/1.1 204 No Content\r\n\r\n")) as (elsewhere, reached):
        redirect = saying(f"HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:{elsewhere}/\r\nContent-Length: 0\r\n\r\n")
        async with receiving(redirect) as (port, _):
            with pytest.raises(Refused, match="status 30"):
                await send(f"http://127.0.0.1:{port}/")
        assert not reached


@pytest.mark.parametrize(
    ("status", "is_final"), [("500 x", False), ("404 x", False), ("429 x", False), ("410 x", True)]
)
async def test_only_a_receiver_that_says_gone_is_not_asked_again(status: str, is_final: bool) -> None:
    async with receiving(saying(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")) as (port, _):
        with pytest.raises(Refused) as refused:
            await send(f"http://127.0.0.1:{port}/")
    assert refused.value.is_final is is_final


@pytest.mark.parametrize(
    "answer",
    [
        silence,
        without_end(b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 1000 + b"\r\n"),
        without_end(b"HTTP/1.1 200 OK\r\nx: ", b"y" * 1000),
        without_end(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        saying("no HTTP\r\n\r\n"),
        saying(""),
        saying("HTTP/1.1 999999 OK\r\n\r\n"),
    ],
    ids=["silent", "endless headers", "endless header", "endless hints", "no HTTP", "hangs up", "no status"],
)
async def test_a_receiver_that_does_not_answer_in_time_or_in_http_has_not_taken_it(answer: Answer) -> None:
    async with receiving(answer) as (port, _):
        with pytest.raises(Refused):
            await send(f"http://127.0.0.1:{port}/")


async def test_an_endless_body_is_not_read() -> None:
    answer = without_end(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + b"y" * 1000 + b"\r\n")
    async with receiving(answer) as (port, posted):
        await send(f"http://127.0.0.1:{port}/")
    assert posted


async def test_no_connection_is_made_to_an_address_that_is_not_public() -> None:
    async with receiving(saying("HTTP/1.1 204 No Content\r\n\r\n")) as (port, posted):
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
            with pytest.raises(Refused, match="not a public address"):
                await send(f"http://{host}:{port}/", networks=())
    assert not posted


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving(saying("HTTP/1.1 500 x\r\n\r\n")) as (proxy, proxied):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy}")
        async with receiving(saying("HTTP/1.1 204 No Content\r\n\r\n")) as (port, posted):
            await send(f"http://127.0.0.1:{port}/")
        assert posted
        assert not proxied
