"""Checks that the pictures which completions name are in the store and are what the completions say."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final

from darkroom.consumer.audit.tally import Listing
from darkroom.producer.store.objects import BucketForbidden, Objects, ObjectTooLarge
from darkroom.schemas.events.completion import ImageRef

CHECKS_MAX: Final = 16
"""Pictures read at a time: as many as the store's client has threads by default."""
REMEMBERED_MAX: Final = 100_000
"""Pictures not read a second time when another completion repeats them; replays mostly come close together."""


class ObjectChecks:
    """Reads each picture once, a bounded number of them at a time. For one task that submits.

    `missing` are objects that are not there although their retention has not passed, `corrupt` those whose bytes are
    not the ones that the completion names, `unsigned` those that the completion calls signed and whose content
    credentials do not hold; all as `bucket/key`.
    """

    def __init__(
        self,
        objects: Objects,
        *,
        retention: timedelta,
        now: Callable[[], datetime],
        are_signed: Callable[[bytes], bool] | None = None,
    ) -> None:
        """`are_signed` says whether a picture's credentials hold; without it nobody looks at them. It may take time."""
        self._objects = objects
        self._retention = retention
        self._now = now
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self.missing = Listing()
        self.corrupt = Listing()
        self.unsigned = Listing()
        self._are_signed = are_signed

    async def submit(self, image: ImageRef, completed_at: datetime) -> None:
        """Check a picture, beginning at once or as soon as there is room. Raises what an earlier check raised."""
        place = (image.bucket, image.key)
        if place in self._seen:
            return
        self._seen[place] = None
        if len(self._seen) > REMEMBERED_MAX:
            self._seen.popitem(last=False)
        if len(self._running) >= CHECKS_MAX:
            await self._wait(asyncio.FIRST_COMPLETED)
        self._running.add(asyncio.create_task(self._check(image, completed_at)))

    async def finish(self) -> None:
        """Wait for what was begun. Raises `StoreUnavailable` where a picture could not be read."""
        while self._running:
            await self._wait(asyncio.ALL_COMPLETED)

    async def cancel(self) -> None:
        """Give up what was begun."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()

    async def _wait(self, until: str) -> None:
        done, self._running = await asyncio.wait(self._running, return_when=until)
        for task in done:
            task.result()

    async def _check(self, image: ImageRef, completed_at: datetime) -> None:
        name = f"{image.bucket}/{image.key}"
        try:
            content = await self._objects.get(image.key, bucket=image.bucket, bytes_max=image.size_bytes)
        except ObjectTooLarge:
            self.corrupt.add(name)
            return
        except BucketForbidden:
            content = None  # a bucket of an earlier deployment, say: its pictures are not to be had any more
        if content is None:
            if completed_at + self._retention > self._now():
                self.missing.add(name)
        elif hashlib.sha256(content).hexdigest() != image.sha256:
            self.corrupt.add(name)
        elif (
            self._are_signed is not None
            and image.unsigned_sha256 is not None
            and not await asyncio.to_thread(self._are_signed, content)
        ):
            self.unsigned.add(name)
