"""The decided outcomes: one `result.json` for each request id, put once and never changed.

The conditional put of `result.json` decides a request, whatever its status. Whoever loses reads what stands and
returns that, so all workers that ever hold the request publish one and the same outcome. Pictures go first, under
keys that hold their own digests: an outcome that stands never names a picture that is not there, and a late
writer's pictures are beside the others, not in their place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final

from darkroom.producer.outcomes.completions import ImageContent
from darkroom.producer.store.objects import Objects, ObjectTooLarge, StoreUnavailable
from darkroom.schemas.errors import EventUnreadable
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.names import result_key
from darkroom.schemas.wire.codec import decode_completion

RESULT_BYTES_MAX: Final = 1024 * 1024
"""Many times what the largest completion has; a larger object is not one of ours."""


class OutcomeUnreadable(Exception):  # noqa: N818 - named for what was found
    """An object stands under an outcome's key that is no outcome of this request. Nobody can decide it any more."""

    def __init__(self, bucket: str, key: str, why: str) -> None:
        super().__init__(
            f"The object {bucket}/{key} stands where a decided outcome belongs and is none: {why}. Find out who wrote "
            "it; restore it, or delete it, and its request is decided anew when a record of it comes."
        )
        self.bucket = bucket
        self.key = key


class Outcomes:
    """The decided outcomes in one store. `clock` gives seconds, for the time that storing takes."""

    def __init__(self, objects: Objects, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._objects = objects
        self._clock = clock

    async def find(self, tenant: str, request_id: str) -> Completion | None:
        """The outcome that stands, or None where none was decided.

        Raises `OutcomeUnreadable`, and `StoreUnavailable` where the store did not answer.
        """
        key = result_key(tenant, request_id, prefix=self._objects.prefix)
        try:
            content = await self._objects.get(key, bytes_max=RESULT_BYTES_MAX)
        except ObjectTooLarge as error:
            raise OutcomeUnreadable(self._objects.bucket, key, f"it has more than {RESULT_BYTES_MAX} bytes") from error
        if content is None:
            return None
        try:
            outcome = decode_completion(content)
        except EventUnreadable as error:
            raise OutcomeUnreadable(self._objects.bucket, key, error.message) from error
        if (outcome.tenant, outcome.request_id) != (tenant, request_id):
            raise OutcomeUnreadable(
                self._objects.bucket, key, f"it is the outcome of {outcome.tenant}/{outcome.request_id}"
            )
        return outcome

    async def decide(self, completion: Completion, images: Sequence[ImageContent] = ()) -> Completion:
        """Store the pictures, then decide the request with this completion unless it was decided before.

        `images` are those that `completion.images` names, in the same order (`completions.image_refs`). Returns
        the completion that stands: this one, with the time that storing the pictures took filled in, or the one
        that came first. Raises `StoreUnavailable`, after which the same call can be made again, and
        `OutcomeUnreadable`.
        """
        if len(images) != len(completion.images):
            raise ValueError(f"{len(completion.images)} pictures are named and {len(images)} are given")
        started = self._clock()
        # All of them are awaited even when one fails, so that none is still being sent when this is called again.
        puts = [
            self._objects.put(ref.key, image.content, ref.content_type)
            for ref, image in zip(completion.images, images, strict=True)
        ]
        for result in await asyncio.gather(*puts, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result
        if images:
            completion = _stored(completion, max(0.0, (self._clock() - started) * 1000))
        return await self._put(completion)

    async def _put(self, completion: Completion) -> Completion:
        key = result_key(completion.tenant, completion.request_id, prefix=self._objects.prefix)
        content = completion.model_dump_json().encode()
        if await self._objects.put_if_absent(key, content, "application/json"):
            return completion
        # What stands may be this very completion, put by a request whose answer was lost: reading it tells.
        standing = await self.find(completion.tenant, completion.request_id)
        if standing is None:
            raise StoreUnavailable(
                f"The object {self._objects.bucket}/{key} stood in the way of an outcome and was gone when it was "
                "read. Check who else deletes objects there."
            )
        return standing


def _stored(completion: Completion, store_ms: float) -> Completion:
    """The completion as of now, `store_ms` after it was made."""
    timings = completion.timings_ms
    total = None if timings.total is None else timings.total + store_ms
    return completion.model_copy(
        update={
            "timings_ms": timings.model_copy(update={"store": store_ms, "total": total}),
            "completed_at": completion.completed_at + timedelta(milliseconds=store_ms),
        }
    )
