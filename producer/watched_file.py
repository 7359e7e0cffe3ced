"""A file that is read again when it has changed, without a restart and without a watcher beside the work.

Whoever needs the content asks; every few seconds that costs a look at the file's time, size and place. A file that
is broken, half written or gone leaves in force what was read before, is logged once for each change, and counted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from darkroom.producer.tasks import described
from darkroom.schemas.errors import SettingsError

log = structlog.get_logger(__name__)

ContentT = TypeVar("ContentT")

_Version = tuple[int, int, int]


class WatchedFile(Generic[ContentT]):
    """The parsed content of a file, as of `reload_s` ago at the most."""

    def __init__(
        self,
        path: Path,
        parse: Callable[[str], ContentT],
        *,
        bytes_max: int,
        reload_s: float,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the file. `parse` may raise `ValueError`. Raises `SettingsError` where it cannot be used."""
        self._path = path
        self._parse = parse
        self._bytes_max = bytes_max
        self._reload_s = reload_s
        self._on_failure = on_failure
        self._clock = clock
        self._looked_at = clock()
        self._reloading = asyncio.Lock()
        try:
            self._version: _Version | None = self._look()
            self._content = self._read()
        except Exception as error:
            raise SettingsError(f"The file {path} cannot be used: {_reason(error)}. Correct the file.") from error

    @property
    def latest(self) -> ContentT:
        """The content as it was read last, without a look at the file."""
        return self._content

    async def current(self) -> ContentT:
        """The content. Looks whether the file changed, unless that was done within `reload_s`."""
        if self._clock() - self._looked_at >= self._reload_s and not self._reloading.locked():
            async with self._reloading:
                await asyncio.to_thread(self._reload)
                self._looked_at = self._clock()
        return self._content

    def _reload(self) -> None:
        try:
            version = self._look()
        except OSError as error:
            if self._version is not None:
                self._failed(error)
            self._version = None
            return
        if version == self._version:
            return
        self._version = version
        try:
            self._content = self._read()
        except Exception as error:  # whatever a parser raises, what was read before stays in force
            self._failed(error)
        else:
            log.info("file read again", file=str(self._path))

    def _failed(self, error: Exception) -> None:
        log.error("file not read again; what it said before stays in force", file=str(self._path), error=_reason(error))
        self._on_failure()

    def _look(self) -> _Version:
        found = os.stat(self._path)
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> ContentT:
        with self._path.open("rb") as file:
            content = file.read(self._bytes_max + 1)
        if len(content) > self._bytes_max:
            raise ValueError(f"it has more than {self._bytes_max} bytes")
        return self._parse(content.decode("utf-8"))


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or "it cannot be read"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    return str(error) if isinstance(error, ValueError) else described(error)
