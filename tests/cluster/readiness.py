"""Asks workers and gateways without pause whether they are ready, and keeps the answers with their times."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import urllib3

ASK_S = 0.5
ANSWER_S_MAX = 2.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one process said at one moment of the monotonic clock."""

    at: float
    ready: bool
    reasons: tuple[str, ...]


@dataclass(slots=True)
class Timeline:
    """The answers of one process, oldest first."""

    name: str
    answers: list[Answer] = field(default_factory=list)

    def first(self, since: float, *, ready: bool) -> Answer | None:
        """Return the first answer of a kind that was given after a moment."""
        return next((one for one in self.answers if one.at >= since and one.ready is ready), None)

    def unready(self, since: float, until: float) -> list[Answer]:
        """Return the answers of a period that were "not ready"."""
        return [one for one in self.answers if since <= one.at <= until and not one.ready]

    def longest_unready_s(self, since: float, until: float) -> float:
        """Return the longest time without a "ready" within a period."""
        longest, begun = 0.0, since
        for one in self.answers:
            if since <= one.at <= until and one.ready:
                longest, begun = max(longest, one.at - begun), one.at
        return max(longest, until - begun)


async def follow(timeline: Timeline, url: Callable[[], str | None]) -> None:
    """Ask until cancelled. `url` is None while the process has no address yet."""
    while True:
        address = url()
        if address is not None:
            timeline.answers.append(await asyncio.to_thread(_ask, address))
        await asyncio.sleep(ASK_S)


def _ask(address: str) -> Answer:
    try:
        answer = urllib3.request("GET", address, timeout=ANSWER_S_MAX, retries=False)
    except urllib3.exceptions.HTTPError as error:
        return Answer(time.monotonic(), ready=False, reasons=(repr(error),))
    if answer.status == 200:
        return Answer(time.monotonic(), ready=True, reasons=())
    try:
        reasons = tuple(json.loads(answer.data)["reasons"])
    except (ValueError, LookupError, TypeError):
        reasons = (answer.data.decode(errors="replace")[:400],)
    return Answer(time.monotonic(), ready=False, reasons=reasons)
