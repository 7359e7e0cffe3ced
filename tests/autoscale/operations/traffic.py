"""Requests that go on meanwhile, and what became of each; and how many workers were ready all the while."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Final

from darkroom.producer.client.client import Client
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings
from tests.autoscale.api import ApiError
from tests.autoscale.case import TooLong
from tests.autoscale.verdict import unlike_one_success

EVERY_S: Final = 0.7
LOOK_S: Final = 0.3
ANSWER_S_MAX: Final = 180.0


class Traffic:
    """One request after another while inside, and an answer to each before it is left."""

    def __init__(self, name: str) -> None:
        self.completions: list[Completion] = []
        self.sent: list[str] = []
        self.ready_min = 1_000
        """The fewest ready workers that any look saw."""
        self._name = name

    @property
    def problems(self) -> list[str]:
        """What was not answered once, with success."""
        answered = Counter(one.request_id for one in self.completions)
        lost = [f"{one} was not answered" for one in self.sent if one not in answered]
        return lost + unlike_one_success(self.completions)

    @contextlib.asynccontextmanager
    async def flowing(self, settings: Settings, ready: Callable[[], int]) -> AsyncIterator[Traffic]:
        """`ready` is asked how many workers are. Raises `TooLong` where some request is never answered."""
        async with Client(settings) as client:
            reading = asyncio.create_task(self._read(client))
            others = [asyncio.create_task(self._send(client)), asyncio.create_task(self._look(ready))]
            try:
                yield self
                for task in others:
                    task.cancel()
                await self._all_answered()
            finally:
                for task in (reading, *others):
                    task.cancel()
                await asyncio.gather(reading, *others, return_exceptions=True)

    async def _send(self, client: Client) -> None:
        while True:
            request = GenerationRequest(request_id=f"{self._name}-{len(self.sent)}", prompt="a figure", steps=8)
            self.sent.append(request.request_id)
            await asyncio.shield(client.send(request))
            await asyncio.sleep(EVERY_S)

    async def _read(self, client: Client) -> None:
        ours = f"{self._name}-"
        async for completion in client.completions():
            if completion.request_id.startswith(ours):
                self.completions.append(completion)

    async def _look(self, ready: Callable[[], int]) -> None:
        while True:
            with contextlib.suppress(ApiError):
                self.ready_min = min(self.ready_min, await asyncio.to_thread(ready))
            await asyncio.sleep(LOOK_S)

    async def _all_answered(self) -> None:
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                while {one.request_id for one in self.completions} < set(self.sent):
                    await asyncio.sleep(0.2)
        except TimeoutError as error:
            raise TooLong(f"waited {ANSWER_S_MAX:.0f} s: {self.problems}") from error
