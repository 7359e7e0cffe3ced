"""A cancellation whose record has a time that cannot be meant is read by a worker that starts after it."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from darkroom.consumer.kafka.cancellations import BACK_S, STRAYS_MAX, CancellationFollower
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.events.progress import Cancellation
from darkroom.schemas.names import Topic
from darkroom.schemas.wire.codec import encode_cancellation
from tests.integration.in_process import Producer
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

LIMIT_S = 60.0
LAST = "now"

pytestmark = pytest.mark.stack


@pytest.mark.parametrize("between", [0, STRAYS_MAX], ids=["near the end", "too far back"])
async def test_times_that_cannot_be_meant_are_looked_for_behind_the_last_hour(stack: Stack, between: int) -> None:
    settings = deployment_on(stack.environment)()
    await ensure_topics(settings)
    now_s = int(time.time())
    longer_ago = (now_s - 2 * BACK_S) * 1000
    times = {"seconds": now_s, "zero": 0, "long-ago": longer_ago}
    names: list[str] = []
    everything = asyncio.Event()

    def take(cancellation: Cancellation) -> None:
        names.append(cancellation.request_id)
        if cancellation.request_id == LAST:
            everything.set()

    async with Producer(settings) as producer:

        async def put(name: str, timestamp_ms: int) -> None:
            cancellation = Cancellation(request_id=name)
            event = encode_cancellation(cancellation, event_id=uuid.uuid4().hex, time=datetime.now(UTC))
            await producer.put(
                event.value, key=b"one", headers=event.headers, topic=Topic.CANCELLATIONS, timestamp_ms=timestamp_ms
            )

        for name, timestamp_ms in times.items():
            await put(name, timestamp_ms)
        await asyncio.gather(*(put("long-ago", longer_ago) for _ in range(between)))
        await put(LAST, now_s * 1000)
    follower = CancellationFollower(settings.topics.cancellations, kafka_arguments(settings.kafka), take)
    following = asyncio.create_task(follower.run())
    try:
        await asyncio.wait_for(everything.wait(), LIMIT_S)
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
    assert names == [LAST] if between else ["seconds", "zero", LAST]
