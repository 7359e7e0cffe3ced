"""The same client and the same reader for everybody: requests go out at their times, answers are read back.

An answer counts when the reader has it: a completion read as committed, or an HTTP answer with its picture.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.names import Topic
from tests.bench.peers.contenders import Contender, Place
from tests.bench.peers.loads import Load


class Answers:
    """What came back, by request id."""

    def __init__(self) -> None:
        self.at_s: dict[str, float] = {}
        """When the first answer was there, by `time.time`."""
        self.counts: Counter[str] = Counter()
        self.completions: dict[str, dict[str, Any]] = {}
        """The first of each, where they are events."""
        self.began_at_s = 0.0
        """When the load began."""

    def note(self, request_id: str, completion: dict[str, Any] | None = None) -> None:
        self.counts[request_id] += 1
        self.at_s.setdefault(request_id, time.time())
        if completion is not None:
            self.completions.setdefault(request_id, completion)

    def forget(self) -> None:
        """Begin anew."""
        for held in (self.at_s, self.counts, self.completions):
            held.clear()

    async def wait_for(self, count: int, limit_s: float, quiet_s: float | None = None) -> None:
        """Until so many requests were answered. Raises `TimeoutError` at the limit; ends without when nothing has come
        for `quiet_s`."""
        async with asyncio.timeout(limit_s):
            seen, since = len(self.at_s), time.monotonic()
            while len(self.at_s) < count:
                await asyncio.sleep(0.01)
                if len(self.at_s) != seen:
                    seen, since = len(self.at_s), time.monotonic()
                elif quiet_s is not None and time.monotonic() - since > quiet_s:
                    return

    def latencies_s(self, load: Load) -> list[float]:
        """From each request's time to its answer, of those that were answered."""
        return [
            self.at_s[one.request_id] - self.began_at_s - due
            for one, due in zip(load.requests, load.at_s, strict=True)
            if one.request_id in self.at_s
        ]


@contextlib.asynccontextmanager
async def reading(place: Place) -> AsyncIterator[Answers]:
    """Answers of a place's completions topic, from its beginning."""
    answers = Answers()
    topic = place.topic(Topic.COMPLETIONS)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=place.settings.kafka.bootstrap_servers,
        isolation_level="read_committed",
        auto_offset_reset="earliest",
    )
    await consumer.start()
    consumer.assign([TopicPartition(topic, number) for number in range(place.settings.topics.completions_partitions)])

    async def read() -> None:
        async for record in consumer:
            completion = json.loads(record.value)
            if completion["status"] != "succeeded":
                raise RuntimeError(f"a request of the bench was not painted: {completion}")
            answers.note(completion["request_id"], completion)

    task = asyncio.create_task(read())
    try:
        yield answers
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await consumer.stop()


async def send(contender: Contender, load: Load, answers: Answers) -> list[asyncio.Task[None]]:
    """Send each request at its time. Returns what goes on: HTTP requests that wait for their pictures."""
    if contender.kind.over_http:
        answers.began_at_s = time.time()
        return await _send_over_http(contender, load, answers)
    place = contender.place
    values = [request.model_dump_json().encode() for request in load.requests]
    async with AIOKafkaProducer(bootstrap_servers=place.settings.kafka.bootstrap_servers, acks="all") as producer:
        sent = []
        answers.began_at_s = time.time()
        for request, value, due in zip(load.requests, values, load.at_s, strict=True):
            await _until(answers.began_at_s + due)
            sent.append(await producer.send(place.topic(Topic.REQUESTS), value, key=request.request_id.encode()))
        await asyncio.gather(*sent)
    return []


async def _until(at_s: float) -> None:
    # Also where nothing is left: the reader is on this loop, and its clock is what counts.
    await asyncio.sleep(max(0.0, at_s - time.time()))


async def _send_over_http(contender: Contender, load: Load, answers: Answers) -> list[asyncio.Task[None]]:
    client = httpx.AsyncClient(base_url=contender.url, timeout=None, limits=httpx.Limits(max_connections=None))

    async def ask(request: GenerationRequest) -> None:
        parameters: dict[str, Any] = {
            "prompt": request.prompt,
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "seed": request.seed,
            "width": request.width,
            "height": request.height,
        }
        dumped = request.model_dump(mode="json")
        picture = None if dumped["pose"] is None else base64.b64decode(dumped["pose"]["image"]["inline"])
        files = None if picture is None else {"pose": ("pose.png", picture, "image/png")}
        # Nobody asks again: what the connection is lost for is lost.
        with contextlib.suppress(httpx.TransportError):
            response = await client.post("/generate", params=parameters, files=files)
            if response.status_code != 200 or not response.content.startswith(b"\x89PNG"):
                raise RuntimeError(f"the endpoint answered {response.status_code}: {response.text[:200]}")
            answers.note(request.request_id)

    tasks = []
    for request, due in zip(load.requests, load.at_s, strict=True):
        await _until(answers.began_at_s + due)
        tasks.append(asyncio.create_task(ask(request)))
    return tasks
