"""Calls over a network that loses, delays and cuts: what every simulated service is reached through.

What was sent is done by the service at its time, whatever becomes of the caller; a call that is cancelled may have
been sent or not. So a failure may come before or
after it took effect, and the caller cannot tell.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.simulation.clock import VirtualLoop

T = TypeVar("T")


class Unanswered(Exception):  # noqa: N818
    """No answer came. Whether the service did what was asked is not known."""


@dataclass(slots=True)
class Weather:
    """How one service is to be reached now."""

    latency_s: float = 0.004
    lost_before: float = 0.0
    """Share of the calls that never arrive."""
    lost_after: float = 0.0
    """Share of the calls whose answer is lost."""
    slow: float = 0.0
    """Share of the calls that take up to `slow_s` each way."""
    slow_s: float = 0.0
    away_until: float = 0.0
    ever_rough: bool = False
    """Whether calls were ever lost or slow, outages aside."""

    def clear(self, now: float) -> None:
        """No more faults from now on."""
        self.lost_before = self.lost_after = self.slow = 0.0
        self.away_until = min(self.away_until, now)


class Wire:
    """The way from anybody to one service."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, weather: Weather, *, timeout_s: float) -> None:
        self._loop = loop
        self._rng = rng
        self.weather = weather
        self._timeout_s = timeout_s

    @property
    def is_away(self) -> bool:
        """Whether the service is down."""
        return self._loop.time() < self.weather.away_until

    async def call(self, do: Callable[[], Any], *, timeout_s: float | None = None) -> Any:
        """Have the service do something and return its answer; an answer that is a future is waited for.

        Raises `Unanswered`, and what `do` raises.
        """
        answer = self._loop.create_future()
        giving_up = self._loop.outside(timeout_s or self._timeout_s, self._fail, answer)
        if self.is_away:
            sent = self._loop.outside(self._rng.choice((0.002, 0.05, self._timeout_s)), self._fail, answer)
        elif self._rng.random() < self.weather.lost_before:
            sent = self._loop.outside(self._rng.choice((0.01, self._timeout_s / 2)), self._fail, answer)
        else:
            sent = self._loop.outside(self._way_s(), self._arrive, do, answer)
        try:
            return await answer
        except asyncio.CancelledError:
            if self._rng.random() < 0.5:  # it had not left yet
                sent.cancel()
            raise
        finally:
            giving_up.cancel()

    def _arrive(self, do: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        if self.is_away:
            self._fail(answer)
            return
        try:
            result = do()
        except Exception as error:
            self._respond(answer, None, error)
            return
        if isinstance(result, asyncio.Future):
            result.add_done_callback(lambda done: self._respond_later(answer, done), context=self._loop.world)
        else:
            self._respond(answer, result, None)

    def _respond_later(self, answer: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            self._fail(answer)
        elif done.exception() is not None:
            self._respond(answer, None, done.exception())
        else:
            self._respond(answer, done.result(), None)

    def _respond(self, answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if self._rng.random() < self.weather.lost_after:
            self._loop.outside(self._rng.choice((0.01, self._timeout_s / 2)), self._fail, answer)
        else:
            self._loop.outside(self._way_s(), _settle, answer, result, error)

    def _way_s(self) -> float:
        if self._rng.random() < self.weather.slow:
            return self._rng.random() * self.weather.slow_s
        return self._rng.random() * self.weather.latency_s

    @staticmethod
    def _fail(answer: asyncio.Future[Any]) -> None:
        _settle(answer, None, Unanswered("no answer"))


def _settle(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)
        answer._log_traceback = False  # the caller may be dead, or have given up


def at_once(work: Coroutine[Any, Any, Any]) -> Any:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")
