"""The adapters under a prefix of the object store, each fetched alone and kept in the cache of models by itself.

A file that appears under the prefix is fetched without the others; one that was replaced or disappeared may leave the
cache. An object that cannot be had whole is refused alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

import structlog

from darkroom.consumer.weights.listing import RemoteModel, list_each
from darkroom.consumer.weights.store import ModelStore
from darkroom.inference.sdxl.loading.adapter_files import PEFT_CONFIG, PEFT_FILE, PICKLES, SUFFIX, AdapterEntry
from darkroom.inference.types import ModelError
from darkroom.producer.store.objects import ObjectsError
from darkroom.schemas.settings.model_source import StorePrefix

_log = structlog.get_logger(__name__)

RETRY_S: Final = 600.0
"""Until an object that came torn is fetched again, if it is not replaced before: it may have a gigabyte."""


class StoreAdapters:
    """Lists the adapters under a prefix, and fetches those that are new."""

    def __init__(self, store: ModelStore, source: StorePrefix, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._source = source
        self._clock = clock
        self._failed: dict[str, tuple[str, float]] = {}
        """By digest: the sentence about an object that cannot be had, and when to try again."""
        self._listed: tuple[RemoteModel, ...] | None = None
        """Of the last call, None before it. The adapter store reads them until it has looked at those of this call."""
        self._told: frozenset[str] = frozenset()

    def __call__(self) -> Sequence[AdapterEntry]:
        """Return the entries, as of a folder. Raises `ModelError` if the store cannot be read."""
        with self._store.connected(self._source) as client:
            found = list_each(client, self._source)
        adapters = tuple(adapter for entry in found.entries if (adapter := _adapter(entry)) is not None)
        self._failed = {
            adapter.digest: self._failed[adapter.digest] for adapter in adapters if adapter.digest in self._failed
        }
        entries = [self._entry(adapter) for adapter in adapters]
        self._store.release_others((*(self._listed or ()), *adapters))
        self._listed = adapters
        self._tell((*found.passed_over, *_subfolders(found.entries)))
        return entries

    def _entry(self, adapter: RemoteModel) -> AdapterEntry:
        name = adapter.files[0].path.partition("/")[0]
        if PurePosixPath(name).suffix.lower() in PICKLES:
            return AdapterEntry(Path(name), adapter.digest)  # refused by its name
        held = self._store.held(adapter)
        if held is not None:
            return AdapterEntry(held / name, adapter.digest)
        trouble, retry_at = self._failed.get(adapter.digest, ("", 0.0))
        if not trouble or self._clock() >= retry_at:
            try:
                with self._store.connected(self._source) as client:
                    folder = self._store.hold(client, adapter)
            except ModelError as error:
                is_stores_fault = isinstance(error.__cause__, ObjectsError)
                if is_stores_fault and self._listed is None:
                    raise  # a worker does not start without the rights, or while the store is away
                if not trouble:
                    _log.warning("object_passed_over", why=str(error))
                trouble = f"The adapter file {name} could not be fetched from the store: the worker's log says why."
                self._failed[adapter.digest] = trouble, self._clock() + (0.0 if is_stores_fault else RETRY_S)
            else:
                self._failed.pop(adapter.digest, None)
                return AdapterEntry(folder / name, adapter.digest)
        return AdapterEntry(Path(name), (adapter.digest, "failed"), trouble)

    def _tell(self, sentences: Iterable[str]) -> None:
        found = frozenset(sentences)
        for sentence in sorted(found - self._told):
            _log.warning("object_passed_over", why=sentence)
        self._told = found


def _adapter(entry: RemoteModel) -> RemoteModel | None:
    """Return what is to be fetched of an object or folder of the first level; None if it is no adapter."""
    name = entry.files[0].path.partition("/")[0]
    if name.startswith("."):
        return None
    if entry.is_single:
        return entry if PurePosixPath(name).suffix.lower() in (SUFFIX, *PICKLES) else None
    files = tuple(file for file in entry.files if file.path in (f"{name}/{PEFT_FILE}", f"{name}/{PEFT_CONFIG}"))
    return replace(entry, files=files) if any(file.path.endswith(PEFT_FILE) for file in files) else None


def _subfolders(entries: Iterable[RemoteModel]) -> list[str]:
    """Return a sentence for each folder whose files are not read, although they look like adapters."""
    return [
        f"The adapters below {entry.files[0].key.rpartition('/')[0]} are not read: move them up."
        for entry in entries
        if not entry.is_single and _adapter(entry) is None and any(file.path.endswith(SUFFIX) for file in entry.files)
    ]
