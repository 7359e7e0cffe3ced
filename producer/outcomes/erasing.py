"""Erases requests: their pictures, uploads and texts go, and a tombstone stays in place of the outcome.

The order makes an erasure that dies anywhere harmless, and its repetition complete:

1. The tombstone takes the place of `result.json`. From here on every record of the request ends as `erased`.
2. A second one takes the place of the gateway's claim, `request.json`, so that a request that is sent again over HTTP
   is known before anything of it is stored.
3. What else the request has in the store is deleted.

A worker that is painting the request meanwhile stores its pictures, meets the tombstone where it would decide the
outcome, and calls `sweep`; so does each worker that is given a record of the request. Both tombstones are as old as the
erasure, so the bucket's retention keeps them at least as long as it would have kept the outcome.

The bucket may be shared. In a request's folder only what Darkroom itself names is deleted (`darkroom.schemas.names`),
and nothing at all where no object there shows that the folder is a request's.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from darkroom.producer.outcomes import completions
from darkroom.producer.outcomes.dead_letter_log import STORED_BYTES_MAX
from darkroom.producer.outcomes.dead_letters import LetterUnreadable, identity_of, object_key, read_stored
from darkroom.producer.outcomes.outcomes import Outcomes, OutcomeUnreadable
from darkroom.producer.store.objects import Objects, ObjectTooLarge
from darkroom.schemas.events.completion import Completion, Status
from darkroom.schemas.names import (
    CALLBACK_NAME,
    REQUEST_NAME,
    RESULT_NAME,
    is_identity,
    is_picture_name,
    is_upload_name,
    request_folder,
    request_key,
    result_key,
    tenant_folder,
)

ERASED_AT: Final = "erased_at"
"""The member that a claim's tombstone has, and no claim."""
PROOF_BYTES_MAX: Final = 64 * 1024 * 1024
"""The largest claim or picture that is read to see whose it is: above what a request or 4096 x 4096 pixels take."""
TRIES_MAX: Final = 5
"""Times that an outcome may come or go between being read and being replaced."""

Identity = tuple[str, str]


class NotErased(Exception):  # noqa: N818 - named for what happened
    """A request was left as it is: one sentence that says why, with the remedy."""


@dataclass(frozen=True, slots=True)
class Erased:
    """Result of erasing one request."""

    tenant: str
    request_id: str
    was: Status | None
    """The status of the outcome that stood; `erased` where this repeats an erasure, None where none was decided."""
    deleted: int
    """Objects that were deleted now."""
    left: tuple[str, ...]
    """Keys in the request's folder that are not Darkroom's, and stay."""
    tombstone: Completion


@dataclass(frozen=True, slots=True)
class _Folder:
    """The names of a request's objects, sorted by what they are."""

    pictures: tuple[str, ...]
    uploads: tuple[str, ...]
    callbacks: tuple[str, ...]
    has_result: bool
    has_claim: bool
    others: tuple[str, ...]

    @staticmethod
    def of(names: list[str]) -> _Folder:
        """Sort the names of a folder."""
        pictures = tuple(name for name in names if is_picture_name(name))
        uploads = tuple(name for name in names if is_upload_name(name))
        callbacks = tuple(name for name in names if name == CALLBACK_NAME)
        known = {*pictures, *uploads, *callbacks, RESULT_NAME, REQUEST_NAME}
        others = tuple(name for name in names if name not in known)
        return _Folder(pictures, uploads, callbacks, RESULT_NAME in names, REQUEST_NAME in names, others)


class Erasing:
    """Erases in one store. Methods raise `StoreUnavailable`, after which the same call can be made again."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._outcomes = Outcomes(objects)

    async def erase(self, tenant: str, request_id: str, *, by: str, now: datetime) -> Erased:
        """Erase a request, whether it has ended, is under way, or is still to come. Repeating it changes nothing.

        `by` says who erases, for the tombstone. Raises `NotErased` where what is in the request's folder is not
        Darkroom's.
        """
        folder = await self._folder(tenant, request_id)
        is_empty = not (
            folder.pictures
            or folder.uploads
            or folder.callbacks
            or folder.others
            or folder.has_result
            or folder.has_claim
        )
        if not (is_empty or await self._is_ours(tenant, request_id, folder)):
            raise NotErased(
                f"Nothing in {self._objects.bucket}/{request_folder(tenant, request_id, prefix=self._objects.prefix)} "
                "shows that it belongs to a request of Darkroom's. It was left as it is: check tenant and request id."
            )
        was, tombstone = await self._bury(tenant, request_id, by=by, now=now)
        await self._bury_claim(tenant, request_id, now)
        deleted, left = await self._clear(tenant, request_id)
        letter = object_key(tombstone.source, prefix=self._objects.prefix)
        deleted += await self._delete_letter(letter, tenant, request_id)
        return Erased(tenant, request_id, was, deleted, left, tombstone)

    async def requests_of(self, tenant: str) -> AsyncIterator[tuple[str, bool]]:
        """Yield the request ids below a tenant's folder, and whether an object there shows that Darkroom made it."""
        folder = tenant_folder(tenant, prefix=self._objects.prefix)
        names: list[str] = []
        current = ""
        async for key in self._objects.list_keys(folder):
            request_id, slash, name = key.removeprefix(folder).partition("/")
            if not slash or not is_identity(request_id):
                continue
            if request_id != current and names:
                yield current, await self._is_ours(tenant, current, _Folder.of(names))
                names = []
            current = request_id
            names.append(name)
        if names:
            yield current, await self._is_ours(tenant, current, _Folder.of(names))

    async def sweep(self, tenant: str, request_id: str) -> int:
        """Delete what was stored for a request after its erasure. Return the number of objects.

        For who has just met the tombstone.
        """
        deleted, _ = await self._clear(tenant, request_id)
        return deleted

    async def leftovers(self, tenant: str, request_id: str) -> int | None:
        """Return the number of objects that an erasure did not get to; None for a request that was not erased."""
        try:
            standing = await self._outcomes.find(tenant, request_id)
        except OutcomeUnreadable:
            return None
        if standing is None or standing.status is not Status.ERASED:
            return None
        folder = await self._folder(tenant, request_id)
        return len(folder.pictures) + len(folder.uploads) + len(folder.callbacks)

    async def is_due(self, tenant: str, request_id: str, *, before: datetime) -> bool:
        """Return whether a request's outcome was decided before a moment, and there is still something to erase.

        Without an outcome that can be read it is not: such a request may be under way.
        """
        try:
            standing = await self._outcomes.find(tenant, request_id)
        except OutcomeUnreadable:
            return False
        if standing is None:
            return False
        if standing.status is Status.ERASED:
            return bool(await self.leftovers(tenant, request_id))
        return standing.completed_at < before

    async def delete_letters(self, is_wanted: Callable[[Identity], bool]) -> int:
        """Delete the stored dead letters (records too large for the topic) of requests that are meant.

        Reads each stored letter. Return the number of those that were deleted.
        """
        deleted = 0
        async for key in self._objects.list_keys(f"{self._objects.prefix}.dead-letters/"):
            identity = await self._identity_in(key)
            if identity is not None and is_wanted(identity):
                await self._objects.delete(key)
                deleted += 1
        return deleted

    async def _bury(self, tenant: str, request_id: str, *, by: str, now: datetime) -> tuple[Status | None, Completion]:
        """Put the tombstone. Return the status of what stood there, and the tombstone."""
        key = result_key(tenant, request_id, prefix=self._objects.prefix)
        for _ in range(TRIES_MAX):
            try:
                standing = await self._outcomes.find(tenant, request_id)
            except OutcomeUnreadable as error:
                raise NotErased(str(error)) from error
            if standing is not None and standing.status is Status.ERASED:
                return Status.ERASED, standing
            tombstone = completions.erased(tenant, request_id, standing, by=by, completed_at=now)
            content = tombstone.model_dump_json().encode()
            if standing is not None:
                await self._objects.put(key, content, "application/json")
                return standing.status, tombstone
            if await self._objects.put_if_absent(key, content, "application/json"):
                return None, tombstone
        raise NotErased(f"The outcome {key} comes and goes: check who else writes there, and erase it again.")

    async def _bury_claim(self, tenant: str, request_id: str, now: datetime) -> None:
        """Put the tombstone of the gateway's claim, unless what stands there is not one."""
        key = request_key(tenant, request_id, prefix=self._objects.prefix)
        content = json.dumps({ERASED_AT: now.isoformat()}).encode()
        if await self._objects.put_if_absent(key, content, "application/json"):
            return
        if await self._is_claim(key, request_id):
            await self._objects.put(key, content, "application/json")

    async def _clear(self, tenant: str, request_id: str) -> tuple[int, tuple[str, ...]]:
        """Delete pictures, uploads and an undelivered callback. Return their number, and the keys that are not ours."""
        base = request_folder(tenant, request_id, prefix=self._objects.prefix)
        folder = await self._folder(tenant, request_id)
        ours = (*folder.pictures, *folder.uploads, *folder.callbacks)
        for name in ours:
            await self._objects.delete(base + name)
        return len(ours), tuple(base + name for name in folder.others)

    async def _folder(self, tenant: str, request_id: str) -> _Folder:
        base = request_folder(tenant, request_id, prefix=self._objects.prefix)
        return _Folder.of([key.removeprefix(base) async for key in self._objects.list_keys(base)])

    async def _is_ours(self, tenant: str, request_id: str, folder: _Folder) -> bool:
        """Return whether the outcome, the claim, or a picture that bears its own digest is Darkroom's."""
        if folder.has_result:
            try:
                return await self._outcomes.find(tenant, request_id) is not None
            except OutcomeUnreadable:
                return False
        prefix = self._objects.prefix
        if folder.has_claim and await self._is_claim(request_key(tenant, request_id, prefix=prefix), request_id):
            return True
        base = request_folder(tenant, request_id, prefix=prefix)
        for name in itertools.islice(folder.pictures, 1):
            content = await self._read(base + name)
            digest = name.partition("-")[2].partition(".")[0]
            return content is not None and hashlib.sha256(content).hexdigest().startswith(digest)
        return False

    async def _is_claim(self, key: str, request_id: str) -> bool:
        content = await self._read(key)
        try:
            document = json.loads(content or b"")
            return ERASED_AT in document or document["request"]["request_id"] == request_id
        except (ValueError, TypeError, KeyError):
            return False

    async def _delete_letter(self, key: str, tenant: str, request_id: str) -> int:
        if await self._identity_in(key) != (tenant, request_id):
            return 0
        await self._objects.delete(key)
        return 1

    async def _identity_in(self, key: str) -> Identity | None:
        """Return whose record a stored dead letter is; None where there is none, or where it cannot be told."""
        content = await self._read(key, STORED_BYTES_MAX)
        if content is None:
            return None
        try:
            return identity_of(read_stored(content, sha256=hashlib.sha256(content).hexdigest()))
        except LetterUnreadable:
            return None

    async def _read(self, key: str, bytes_max: int = PROOF_BYTES_MAX) -> bytes | None:
        try:
            return await self._objects.get(key, bytes_max=bytes_max)
        except ObjectTooLarge:
            return None
