"""A bounded folder of fetched models, shared by the processes of one machine.

    DIGEST/           a whole model
    DIGEST.partial/   one on its way
    DIGEST.lock       its size in bytes; when it was used last; and, locked, who has it

A process that uses a model holds its lock shared for as long as it lives, one that fetches or removes it holds the lock
alone. The operating system frees locks when a process ends, however it ends, so there is nothing to clean up: whoever
comes next goes on with what is there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Final

import structlog

from darkroom.inference.types import ModelError

log = structlog.get_logger(__name__)

_LOOK_AGAIN_S: Final = 0.2
_WAITING_IS_TOLD_S: Final = 10.0


class ModelCache:
    """`hold` and `release`; any number of these over one folder, in any number of processes."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._held: dict[str, IO[bytes]] = {}
        """The locks of what was handed out, by digest."""
        # Whoever forgets to release does it all the same, when this goes.
        weakref.finalize(self, _release, self._held)

    def hold(self, digest: str, size_bytes: int, fill: Callable[[Path], None]) -> Path:
        """The folder of a whole model, which nobody removes before `release`.

        Where it is not there, `fill` is called with a folder to fill, which may hold what an earlier try left. Where
        another process is filling it, this waits for it. Raises `ModelError` where the model does not fit, and what
        `fill` raises.
        """
        if (held := self.held(digest)) is not None:
            return held
        target = self._folder / digest
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = (self._folder / f"{digest}.lock").open("a+b")
        try:
            self._lock_whole(lock, target, size_bytes, fill)
        except BaseException:
            lock.close()
            raise
        os.utime(lock.fileno())
        self._held[digest] = lock
        return target

    def held(self, digest: str) -> Path | None:
        """Return the folder of a model that `hold` returned and `release` did not let go; None for any other."""
        return self._folder / digest if digest in self._held else None

    def release(self, but: Collection[str] = ()) -> None:
        """Let this and others remove what this holds, except for the digests in `but`."""
        _release(self._held, but)

    def bytes_held(self) -> int:
        """Return the bytes that the models there have reserved.

        Raises nothing where the folder is not there, or changes meanwhile.
        """
        try:
            return sum(size for _, size in self._entries())
        except FileNotFoundError:
            return 0  # another process removed one between the listing and the look

    def _lock_whole(self, lock: IO[bytes], target: Path, size_bytes: int, fill: Callable[[Path], None]) -> None:
        """Return with the lock shared and the model whole."""
        told_at = time.monotonic()
        while True:
            if _try_lock(lock, fcntl.LOCK_SH):
                if target.is_dir():
                    return
                fcntl.flock(lock, fcntl.LOCK_UN)
            if _try_lock(lock, fcntl.LOCK_EX):
                if not target.is_dir():
                    self._fill(lock, target, size_bytes, fill)
                # Giving the lock up for a shared one lets others in between: look again.
                fcntl.flock(lock, fcntl.LOCK_UN)
                continue
            if time.monotonic() - told_at > _WAITING_IS_TOLD_S:
                told_at = time.monotonic()
                log.info("another process is fetching this model; waiting for it", folder=str(target))
            time.sleep(_LOOK_AGAIN_S)

    def _fill(self, lock: IO[bytes], target: Path, size_bytes: int, fill: Callable[[Path], None]) -> None:
        partial = target.with_name(f"{target.name}.partial")
        self._reserve(lock, partial, size_bytes)
        partial.mkdir(exist_ok=True)
        fill(partial)
        partial.rename(target)

    def _reserve(self, lock: IO[bytes], partial: Path, size_bytes: int) -> None:
        """Make room and take it, one process at a time."""
        with self._alone():
            self._make_room(partial.stem, size_bytes)
            there = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
            free = shutil.disk_usage(self._folder).free
            if free < size_bytes - there:
                raise ModelError(
                    f"There is no room for a model of {size_bytes} bytes in {self._folder}, {free} are free there: "
                    "free some, or name another disk's folder in DARKROOM_MODEL__CACHE_PATH."
                )
            lock.truncate(0)
            lock.write(str(size_bytes).encode())
            lock.flush()

    def _make_room(self, digest: str, size_bytes: int) -> None:
        """Remove models that were not used for longest, until this one fits."""
        others = [(name, size) for name, size in self._entries() if name != digest]
        excess = sum(size for _, size in others) + size_bytes - self._bytes_max
        for name, size in others:
            if excess <= 0:
                return
            with (self._folder / f"{name}.lock").open("ab") as lock:
                if _try_lock(lock, fcntl.LOCK_EX):
                    log.info("removing a model from the cache", folder=name, bytes=size)
                    for folder in (self._folder / name, self._folder / f"{name}.partial"):
                        shutil.rmtree(folder, ignore_errors=True)
                    excess -= size
        if excess > 0:
            raise ModelError(
                f"A model of {size_bytes} bytes does not fit into the {self._bytes_max} bytes that may be taken in "
                f"{self._folder}, beside those in use: raise DARKROOM_MODEL__CACHE_BYTES_MAX."
            )

    def _entries(self) -> list[tuple[str, int]]:
        """Name and reserved bytes of what is there, whole or in part; the one used longest ago first."""
        locks = [lock for lock in self._folder.glob("*.lock") if lock.stem != "cache"]
        present = [
            lock
            for lock in sorted(locks, key=lambda lock: lock.stat().st_mtime)
            if lock.with_suffix("").is_dir() or lock.with_suffix(".partial").is_dir()
        ]
        return [(lock.stem, int(lock.read_bytes() or b"0")) for lock in present]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._folder / "cache.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _release(held: dict[str, IO[bytes]], but: Collection[str] = ()) -> None:
    for digest in held.keys() - set(but):
        held.pop(digest).close()


def _try_lock(lock: IO[bytes], how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
