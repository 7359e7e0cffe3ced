"""The object store with a time limit on each call: no call takes longer than a caller can be kept waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from typing_extensions import override

from darkroom.producer.store.objects import Objects, ObjectStat, StoreUnavailable
from darkroom.schemas.settings import S3Settings


def hurried(s3: S3Settings, timeout_s: float) -> S3Settings:
    """Return the store's settings with at most two tries that fit into `timeout_s`. Only a worker can wait longer."""
    return s3.model_copy(
        update={
            "attempts": min(s3.attempts, 2),
            "connect_timeout_s": min(s3.connect_timeout_s, timeout_s / 2),
            "read_timeout_s": min(s3.read_timeout_s, timeout_s / 2),
        }
    )


class BoundedStore(Objects):
    """A store whose every call raises `StoreUnavailable` after `timeout_s`.

    A write that was given up may still take place: the gateway may repeat each of its writes.
    """

    def __init__(self, objects: Objects, timeout_s: float) -> None:
        self._objects = objects
        self._timeout_s = timeout_s
        self.reached_at = float("-inf")
        """When the store last did its part, by the monotonic clock in seconds."""

    @override
    async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
        async with self._bounded():
            return await self._objects.get(key, bucket=bucket, bytes_max=bytes_max)

    @override
    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        async with self._bounded():
            return await self._objects.put_if_absent(key, content, content_type)

    @override
    async def put(self, key: str, content: bytes, content_type: str) -> None:
        async with self._bounded():
            await self._objects.put(key, content, content_type)

    @override
    async def stat(self, key: str, *, bucket: str | None = None) -> ObjectStat | None:
        async with self._bounded():
            return await self._objects.stat(key, bucket=bucket)

    @override
    async def delete(self, key: str) -> None:
        async with self._bounded():
            await self._objects.delete(key)

    @override
    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        # Bounded page by page by the client's own time-outs: only an erasure lists, and only one request's folder.
        return self._objects.list_keys(prefix)

    @property
    @override
    def bucket(self) -> str:
        return self._objects.bucket

    @property
    @override
    def prefix(self) -> str:
        return self._objects.prefix

    @override
    def presigned_get(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        return self._objects.presigned_get(key, bucket=bucket, valid_s=valid_s)

    @override
    def presigned_head(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        return self._objects.presigned_head(key, bucket=bucket, valid_s=valid_s)

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            raise StoreUnavailable(
                f"The object store did not answer within {self._timeout_s:g} s. Check that it runs and can be reached."
            ) from error
        self.reached_at = time.monotonic()
