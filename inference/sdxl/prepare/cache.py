"""A least-recently-used cache bounded in bytes.

Owned by one thread (the prepare lane); any thread may read `counts`. A cache belongs to one loaded model and ends with
it, so its keys need not name the model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from darkroom.inference.types import CacheCounts

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteCache(Generic[K, V]):
    """Keeps the most recently used values, up to `bytes_max` bytes as counted by `size_of`. 0 keeps nothing."""

    def __init__(self, bytes_max: int, size_of: Callable[[V], int]) -> None:
        self._bytes_max = bytes_max
        self._size_of = size_of
        self._held: OrderedDict[K, V] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """Return the value under `key`, or make and keep it. An exception of `make` passes through and leaves no
        trace."""
        if key in self._held:
            self._hits += 1
            self._held.move_to_end(key)
            return self._held[key]
        self._misses += 1
        value = make()
        size = self._size_of(value)
        # A value larger than the whole cache would evict everything else and then itself.
        if size <= self._bytes_max:
            self._held[key] = value
            self._bytes += size
            while self._bytes > self._bytes_max:
                _, oldest = self._held.popitem(last=False)
                self._bytes -= self._size_of(oldest)
        return value

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def keep(self, wanted: Callable[[K], bool]) -> None:
        """Discard every value whose key is not wanted."""
        for key in [key for key in self._held if not wanted(key)]:
            self._bytes -= self._size_of(self._held.pop(key))

    def counts(self) -> CacheCounts:
        """Return the hits and misses since the start, and the bytes held now."""
        return CacheCounts(self._hits, self._misses, self._bytes)

    def reset(self) -> None:
        """Discard all values and counts."""
        self._held.clear()
        self._bytes = self._hits = self._misses = 0
