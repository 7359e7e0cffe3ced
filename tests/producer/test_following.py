"""Proves that waiting shows how far requests are, reports each outcome once, and says which never came."""

from __future__ import annotations

import asyncio
import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from darkroom.producer.client.client import Client
from darkroom.producer.client.following import BARS_MAX, Display, follow
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.progress import Progress
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings
from tests.producer.answering import Answerer, rendered
from tests.producer.examples import success


def progress(name: str, steps: int) -> Progress:
    return Progress(
        request_id=name, tenant="studio", stage="denoise", steps_done=steps, steps_total=22, at=datetime.now(UTC)
    )


def test_bars_count_requests_and_steps() -> None:
    screen = io.StringIO()
    with Display(2, Console(file=screen, force_terminal=True, width=100)) as display:
        display.on_progress(progress("hello-1", 3))
        display.on_progress(progress("hello-1", 11))
        display.refresh()
        shown = screen.getvalue()
        assert "hello-1" in shown
        assert "11/22" in shown
        assert "0/2" in shown
        display.on_completion(success(request_id="hello-1"))
        screen.truncate(0)
        display.refresh()
        assert "1/2" in screen.getvalue()
        assert "hello-1" not in screen.getvalue()


def test_bars_are_bounded_and_their_places_are_used_again() -> None:
    screen = io.StringIO()
    with Display(100, Console(file=screen, force_terminal=True, width=100, height=50)) as display:
        for number in range(100):
            display.on_progress(progress(f"r{number:02}", 1))
        display.refresh()
        assert f"r{BARS_MAX - 1:02}" in screen.getvalue()
        assert f"r{BARS_MAX:02}" not in screen.getvalue()
        display.on_completion(success(request_id="r00"))
        display.on_progress(progress("r99", 2))
        display.refresh()
        assert "r99" in screen.getvalue()


@pytest.mark.stack
async def test_each_outcome_is_reported_once_and_what_never_comes_is_named(settings: Settings) -> None:
    await ensure_topics(settings)
    reported: list[Completion] = []
    async with Client(settings) as client, Answerer(settings) as answerer:
        ids = await client.send([GenerationRequest(request_id=f"r{n}", prompt="x") for n in range(3)])
        records = sorted(await answerer.take(3), key=lambda record: bytes(record.key))
        await answerer.tell(progress("r0", 5))
        waiting = asyncio.create_task(
            follow(client, [("default", one) for one in ids], reported.append, timeout_s=3, watched=True)
        )
        await answerer.publish([rendered(records[0]), rendered(records[1])])
        await answerer.publish([rendered(records[0]).model_copy(update={"replayed": True})])
        assert await waiting == {("default", "r2")}
    assert sorted(completion.request_id for completion in reported) == ["r0", "r1"]
    assert not any(completion.replayed for completion in reported)


@pytest.mark.stack
async def test_nothing_is_waited_for_where_nothing_was_sent(settings: Settings) -> None:
    await ensure_topics(settings)
    async with Client(settings) as client:
        assert await asyncio.wait_for(follow(client, [], print, timeout_s=60, watched=False), 5) == set()
