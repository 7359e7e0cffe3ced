"""The store as the gateway uses it: no call takes longer than a caller can be kept waiting."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from darkroom.producer.store.objects import Objects, ObjectStat, StoreUnavailable
from darkroom.schemas.settings import S3Settings


def hurried(s3: S3Settings, timeout_s: float) -> S3Settings:
    """The store's settings with two tries that fit into `timeout_s`: a caller waits, unlike a worker's outcome."""
    return s3.model_copy(
        update={
            "attempts": min(s3.attempts, 2),
            "connect_timeout_s": min(s3.connect_timeout_s, timeout_s / 2),
            "read_timeout_s": min(s3.read_timeout_s, timeout_s / 2),
        }
    )


class BoundedStore:
    """`darkroom.producer.store.objects.Objects`, each call with a limit; `StoreUnavailable` when it has passed.

    A call that is given up may end all the same: every write of the gateway's may be repeated.
    """

    def __init__(self, objects: Objects, timeout_s: float) -> None:
        self._objects = objects
        self._timeout_s = timeout_s
        self.reached_at = float("-inf")
        """When it last did its part, by the monotonic clock."""

    async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
        """As the protocol says."""
        async with self._bounded():
            return await self._objects.get(key, bucket=bucket, bytes_max=bytes_max)

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        """As the protocol says."""
        async with self._bounded():
            return await self._objects.put_if_absent(key, content, content_type)

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """As the protocol says."""
        async with self._bounded():
            await self._objects.put(key, content, content_type)

    async def stat(self, key: str, *, bucket: str | None = None) -> ObjectStat | None:
        """As the protocol says."""
        async with self._bounded():
            return await self._objects.stat(key, bucket=bucket)

    async def delete(self, key: str) -> None:
        """As the protocol says."""
        async with self._bounded():
            await self._objects.delete(key)

    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        """As the protocol says; without a limit, since no caller of the gateway's waits for a list."""
        return self._objects.list_keys(prefix)

    @property
    def bucket(self) -> str:
        """As the protocol says."""
        return self._objects.bucket

    @property
    def prefix(self) -> str:
        """As the protocol says."""
        return self._objects.prefix

    def presigned_get(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """As the protocol says."""
        return self._objects.presigned_get(key, bucket=bucket, valid_s=valid_s)

    def presigned_head(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """As the protocol says."""
        return self._objects.presigned_head(key, bucket=bucket, valid_s=valid_s)

    @contextlib.asynccontextmanager
    async def _bounded(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout_s):
                yield
        except TimeoutError as error:
            raise StoreUnavailable(
                f"The object store did not answer within {self._timeout_s:g} s. Check that it runs and is reached."
            ) from error
        self.reached_at = time.monotonic()
