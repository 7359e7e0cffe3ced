"""The object store: the in-memory one behind a network, as each worker reaches it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from darkroom.producer.store.memory_objects import MemoryObjects
from darkroom.producer.store.objects import Objects, ObjectStat, StoreUnavailable
from tests.simulation.invariants import Invariants
from tests.simulation.wire import Unanswered, Wire, at_once


class SimObjects(Objects):
    """`darkroom.producer.store.objects.Objects` over a wire. What was sent is done, whatever becomes of the caller."""

    def __init__(self, memory: MemoryObjects, wire: Wire, invariants: Invariants) -> None:
        self._memory = memory
        self._wire = wire
        self._invariants = invariants

    @property
    def bucket(self) -> str:
        """As the protocol says."""
        return self._memory.bucket

    @property
    def prefix(self) -> str:
        """As the protocol says."""
        return self._memory.prefix

    async def get(self, key: str, *, bucket: str | None = None, bytes_max: int) -> bytes | None:
        """As the protocol says."""
        found: bytes | None = await self._call(lambda: self._memory.get(key, bucket=bucket, bytes_max=bytes_max))
        return found

    async def put(self, key: str, content: bytes, content_type: str) -> None:
        """As the protocol says."""
        self._invariants.putting(key, content)
        await self._call(lambda: self._memory.put(key, content, content_type))

    async def put_if_absent(self, key: str, content: bytes, content_type: str) -> bool:
        """As the protocol says."""
        won: bool = await self._call(lambda: self._memory.put_if_absent(key, content, content_type))
        return won

    async def stat(self, key: str, *, bucket: str | None = None) -> ObjectStat | None:
        """As the protocol says."""
        stat: ObjectStat | None = await self._call(lambda: self._memory.stat(key, bucket=bucket))
        return stat

    def presigned_get(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """As the protocol says: nothing is asked over the wire."""
        return self._memory.presigned_get(key, bucket=bucket, valid_s=valid_s)

    def presigned_head(self, key: str, *, bucket: str | None = None, valid_s: int) -> str:
        """As the protocol says: nothing is asked over the wire."""
        return self._memory.presigned_head(key, bucket=bucket, valid_s=valid_s)

    async def delete(self, key: str) -> None:
        """As the protocol says."""
        await self._call(lambda: self._memory.delete(key))

    def list_keys(self, prefix: str) -> AsyncIterator[str]:
        """As the protocol says."""
        return self._memory.list_keys(prefix)

    async def _call(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        try:
            return await self._wire.call(lambda: at_once(work()))
        except Unanswered as error:
            raise StoreUnavailable("the store did not answer") from error
