"""Checks that the pictures which completions name are in the store and are what the completions say."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from darkroom.consumer.audit.tally import Listing
from darkroom.producer.outcomes.erasing import Erasing
from darkroom.producer.store.objects import BucketForbidden, Objects, ObjectTooLarge
from darkroom.schemas.events.completion import Completion, ImageRef, Status

CHECKS_MAX: Final = 16
"""Completions looked at a time, a picture of each: as many as the store's client has threads by default."""
REMEMBERED_MAX: Final = 100_000
"""Pictures not read a second time when another completion repeats them; replays mostly come close together."""


class ObjectChecks:
    """Reads each picture once, those of a bounded number of completions at a time. For one task that submits.

    `missing` are objects that are not there although their retention has not passed, `corrupt` those whose bytes are
    not the ones that the completion names, `unsigned` those that the completion calls signed and whose content
    credentials do not hold; all as `bucket/key`. Of a request that was erased, no picture has to be there: `erased`
    counts those, and `unfinished` names, as tenant/request id, each of which something is left.
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
        self._erasing = Erasing(objects)
        self._retention = retention
        self._now = now
        self._seen: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._running: set[asyncio.Task[None]] = set()
        self.missing = Listing()
        self.corrupt = Listing()
        self.unsigned = Listing()
        self.unfinished = Listing()
        self.erased = 0
        self._are_signed = are_signed

    async def submit(self, completion: Completion) -> None:
        """Check a completion's pictures, beginning at once or as soon as there is room. Raises what an earlier check
        raised.
        """
        images = [image for image in completion.images if self._is_new(image)]
        if not images and completion.status is not Status.ERASED:
            return
        if len(self._running) >= CHECKS_MAX:
            await self._wait(asyncio.FIRST_COMPLETED)
        self._running.add(asyncio.create_task(self._check(completion, images)))

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

    def _is_new(self, image: ImageRef) -> bool:
        place = (image.bucket, image.key)
        if place in self._seen:
            return False
        self._seen[place] = None
        if len(self._seen) > REMEMBERED_MAX:
            self._seen.popitem(last=False)
        return True

    async def _wait(self, until: str) -> None:
        done, self._running = await asyncio.wait(self._running, return_when=until)
        for task in done:
            task.result()

    async def _check(self, completion: Completion, images: Sequence[ImageRef]) -> None:
        leftovers = await self._erasing.leftovers(completion.tenant, completion.request_id)
        if leftovers is None:
            for image in images:
                await self._check_picture(image, completion.completed_at)
            return
        self.erased += len(images)
        if leftovers:
            self.unfinished.add(f"{completion.tenant}/{completion.request_id}")

    async def _check_picture(self, image: ImageRef, completed_at: datetime) -> None:
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
