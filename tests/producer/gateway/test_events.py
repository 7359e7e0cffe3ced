"""Proves that event streams begin with the state, tell the latest, end with the job, and are bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from darkroom.schemas.events.request import GenerationRequest
from tests.producer.gateway.house import STUDIO, House, Replica, problem, progress_of

HELLO = GenerationRequest(request_id="hello-1", tenant="studio", prompt="a dancer")
EVENTS = "/v1/generations/hello-1/events"
LIMIT_S = 20


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[httpx.Response]:
    """A stream over a real connection."""
    async with (
        httpx.AsyncClient(headers=STUDIO, timeout=LIMIT_S, trust_env=False) as client,
        client.stream("GET", url + EVENTS) as stream,
    ):
        yield stream


async def events_of(stream: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Its events, and its comments as (":", {})."""
    name = ""
    async for line in stream.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
        elif line.startswith(":"):
            yield ":", {}


async def until_open(replica: Replica, count: int) -> None:
    async with asyncio.timeout(LIMIT_S):
        while replica.gateway.services.hub.watches != count:
            await asyncio.sleep(0.01)


async def test_a_stream_tells_the_state_the_steps_and_the_end(house: House, replica: Replica) -> None:
    await replica.post({"request_id": "hello-1", "prompt": "a dancer"})
    hub = replica.gateway.services.hub
    async with asyncio.timeout(LIMIT_S), replica.on_a_port() as url, opened(url) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        events = events_of(stream)
        name, body = await anext(events)
        assert (name, body["status"]) == ("status", "queued")
        hub.on_progress(progress_of(HELLO, 1))
        assert [(name, body["status"]) async for name, body in one(events)] == [("status", "running")]
        assert await anext(events) == ("progress", {"steps_done": 1, "steps_total": 22, "preview": None})
        hub.on_progress(progress_of(HELLO, 2, "/9j/4AAQ"))
        assert (await anext(events))[1]["preview"] == "data:image/jpeg;base64,/9j/4AAQ"
        hub.on_completion(await house.decide(HELLO))
        rest = [(name, body["status"]) async for name, body in events]
        assert rest == [("status", "succeeded"), ("completion", "succeeded")]


async def one(events: AsyncIterator[tuple[str, dict[str, Any]]]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    yield await anext(events)


async def test_a_stream_of_a_job_that_has_ended_says_so_and_ends(house: House, replica: Replica) -> None:
    await replica.post({"request_id": "hello-1", "prompt": "a dancer"})
    await house.decide(HELLO)
    answer = await replica.client.get(EVENTS)
    assert answer.text.startswith("retry: 2000\n\nevent: status\n")
    assert "id: end\nevent: completion\n" in answer.text
    again = await replica.client.get(EVENTS, headers={"last-event-id": "end"})
    assert (again.status_code, again.content) == (204, b"")
    assert (await replica.client.get(EVENTS, headers={"last-event-id": "7"})).status_code == 200


async def test_head_of_a_stream_is_its_headers_and_ends(replica: Replica) -> None:
    await replica.post({"request_id": "hello-1", "prompt": "a dancer"})
    async with asyncio.timeout(LIMIT_S):
        answer = await replica.client.head(EVENTS)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert replica.gateway.streams_open == 0


async def test_a_silent_stream_is_kept_open_by_comments() -> None:
    house = House(events_comment_s=0.1)
    async with house.gateway() as replica:
        await replica.post({"request_id": "hello-1", "prompt": "a dancer"})
        async with asyncio.timeout(LIMIT_S), replica.on_a_port() as url, opened(url) as stream:
            seen = [(await anext(events))[0] for events in [events_of(stream)] for _ in range(3)]
            assert seen == ["status", ":", ":"]


async def test_streams_are_bounded_and_one_that_is_closed_makes_room() -> None:
    house = House(events_open_max=1)
    async with house.gateway() as replica:
        await replica.post({"request_id": "hello-1", "prompt": "a dancer"})
        async with asyncio.timeout(LIMIT_S), replica.on_a_port() as url:
            async with opened(url) as stream:
                await anext(events_of(stream))
                async with opened(url) as refused:
                    await refused.aread()
                    problem(refused, 503, "too_many_streams")
                    assert refused.headers["retry-after"]
            await until_open(replica, 0)
            async with opened(url) as stream:
                assert (await anext(events_of(stream)))[0] == "status"


async def test_a_process_that_ends_ends_its_streams(replica: Replica) -> None:
    await replica.post({"request_id": "hello-1", "prompt": "a dancer"})
    async with asyncio.timeout(LIMIT_S):
        async with replica.on_a_port() as url, opened(url) as stream:
            events = events_of(stream)
            await anext(events)
            replica.gateway.close()
            assert [one async for one in events] == []


@pytest.mark.parametrize("previews", [3000])
async def test_a_reader_that_takes_nothing_gets_the_latest_and_then_is_left(previews: int) -> None:
    house = House(events_write_s=0.5)
    async with house.gateway() as replica:
        await replica.post({"request_id": "hello-1", "prompt": "a dancer"})
        hub = replica.gateway.services.hub
        async with asyncio.timeout(60), replica.on_a_port() as url:
            host, port = url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
            writer.write(f"GET {EVENTS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer studio-key\r\n\r\n".encode())
            await until_open(replica, 1)
            picture = "A" * 200_000
            for number in range(previews):
                hub.on_progress(progress_of(HELLO, number % 20, picture))
                await asyncio.sleep(0)
                if not hub.watches:
                    break
            await until_open(replica, 0)
            writer.close()
            assert reader
