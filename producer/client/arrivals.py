"""Waits for certain completions among all that arrive.

Any number of tasks may wait at once on one reader. Nobody reads in the background: whoever waits takes a turn at
reading and hands round what came, so while nobody waits nothing is fetched and nothing is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final

from darkroom.schemas.events.completion import Completion

KEPT_MAX: Final = 10_000
"""Completions that came while others were waited for, kept for those who ask later: about 20 MB."""
TURN_S: Final = 0.5
"""The longest turn at reading, after which another task that waits may have one."""

Identity = tuple[str, str]
"""Tenant and request id."""


class _Waiter:
    def __init__(self, identities: Collection[Identity]) -> None:
        self.missing = set(identities)
        self.found: dict[Identity, Completion] = {}
        self.complete = asyncio.Event()

    def take(self, completion: Completion) -> None:
        identity = (completion.tenant, completion.request_id)
        if identity in self.missing:
            self.missing.discard(identity)
            self.found[identity] = completion
        if not self.missing:
            self.complete.set()


class Arrivals:
    """Completions as they arrive. `read` gives the next ones, or none after so many seconds."""

    def __init__(self, read: Callable[[float], Awaitable[Sequence[Completion]]]) -> None:
        self._read = read
        self._kept: OrderedDict[Identity, Completion] = OrderedDict()
        self._waiters: set[_Waiter] = set()
        self._turn = asyncio.Lock()

    async def wait(self, identities: Collection[Identity], timeout_s: float) -> dict[Identity, Completion]:
        """The completions of these requests that came until now or come within `timeout_s`; it may be fewer.

        Returns as soon as there is one for each. Raises what `read` raises.
        """
        waiter = _Waiter(identities)
        for identity in tuple(waiter.missing):
            if identity in self._kept:
                waiter.take(self._kept[identity])
        deadline = time.monotonic() + timeout_s
        self._waiters.add(waiter)
        try:
            while waiter.missing and (left_s := deadline - time.monotonic()) > 0:
                await self._take_turn(waiter, min(left_s, TURN_S))
        finally:
            self._waiters.discard(waiter)
        return waiter.found

    async def _take_turn(self, waiter: _Waiter, turn_s: float) -> None:
        """Read for a while, or let another task read for as long, or until it has found what is missing."""
        if self._turn.locked():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(turn_s):
                    await waiter.complete.wait()
            return
        async with self._turn:
            for completion in await self._read(turn_s):
                self._hand_round(completion)

    def _hand_round(self, completion: Completion) -> None:
        for waiter in self._waiters:
            waiter.take(completion)
        # A request's first completion is its outcome; those of later records only repeat it.
        self._kept.setdefault((completion.tenant, completion.request_id), completion)
        if len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
