"""An object store in memory: for simulations, benches and tests that are about something else.

It keeps the protocol's promises, proven by the same tests as the real one. No method waits, so nothing can come
between the check and the write of `put_if_absent`.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection
from urllib.parse import quote

from darkroom.producer.store.objects import BucketForbidden, ObjectStat, ObjectTooLarge, inside


class MemoryObjects:
    """`darkroom.producer.store.objects.Objects` in a dictionary. For one event loop; holds all it is given."""

    def __init__(self, bucket: str = "darkroom", *, prefix: str = "", allowed_buckets: Collection[str] = ()) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._buckets: dict[str, dict[str, bytes]] = {name: {} for name in (bucket, *allowed_buckets)}

    @property
    def bucket(self) -> str:
        """Return the bucket's name."""
        return self._bucket

    @property
    def prefix(self) -> str:
        """Return the beginning of each of our keys."""
        return self._prefix

    def place(self, bucket: str, key: str, content: bytes) -> None:
        """Put an object into an allowed bucket, as somebody else would. Raises `BucketForbidden` for another."""
        self._objects(bucket)[key] = bytes(content)

    async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
        """Return an object's content. Raises as `Objects.get` does."""
        content = self._objects(bucket).get(self._readable(key, bucket))
        if content is not None and len(content) > bytes_max:
            raise ObjectTooLarge(bucket or self._bucket, key, bytes_max)
        return content

    async def put(self, key: str, content: bytes, content_type: str) -> None:  # noqa: ARG002 - nobody asks for it here
        """Write an object, over one that is there."""
        self._objects(None)[inside(self._prefix, key)] = bytes(content)

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        """Write an object unless one is there, and return whether it was written."""
        if key in self._objects(None):
            return False
        await self.put(key, content, content_type)
        return True

    async def stat(self, key: str, *, bucket: str | None = None) -> ObjectStat | None:
        """Return an object's size and type, or None where there is none."""
        content = self._objects(bucket).get(self._readable(key, bucket))
        if content is None:
            return None
        return ObjectStat(len(content), hashlib.md5(content, usedforsecurity=False).hexdigest())

    def presigned_get(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """Return an address that leads nowhere."""
        self._objects(bucket)
        return f"memory://{bucket or self._bucket}/{quote(key)}?X-Amz-Expires={valid_s}"

    def presigned_head(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """Return an address that leads nowhere."""
        return f"{self.presigned_get(key, bucket=bucket, valid_s=valid_s)}&method=HEAD"

    async def delete(self, key: str) -> None:
        """Delete an object. One that is not there is no error."""
        self._objects(None).pop(inside(self._prefix, key), None)

    async def list_keys(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys under a prefix. What is written meanwhile is not listed."""
        for key in sorted(self._objects(None), key=str.encode):
            if key.startswith(inside(self._prefix, prefix)):
                yield key

    def _readable(self, key: str, bucket: str | None) -> str:
        return inside(self._prefix, key) if bucket is None else key

    def _objects(self, bucket: str | None) -> dict[str, bytes]:
        name = self._bucket if bucket is None else bucket
        if name not in self._buckets:
            raise BucketForbidden(name)
        return self._buckets[name]
