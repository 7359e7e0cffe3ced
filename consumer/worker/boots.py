"""Keeps the fates of worker processes in the store: how a crash is told from a freeze, an eviction and a drain.

A *boot* is one run of one process. It takes a *place* on its machine, the lowest one whose lock file is free; the
operating system frees the lock when the process ends, however it ends. Two small objects say the rest:

    .boots/{boot}.json                  running, ended (it was told to end) or crashed
    .boots/places/{host}-{deployment}-{place}.json   the boot that took the place last

Who takes a place whose last boot still says `running` knows that this one ended without a word: it crashed. A frozen
process holds its lock, so nobody takes its place and nobody calls it crashed. In Kubernetes the host name is the
pod's, so a container that restarts takes its own place again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Final

import structlog

from darkroom.consumer.core.journal import Boot, Fate
from darkroom.producer.store.objects import Objects, ObjectTooLarge, StoreUnavailable

log = structlog.get_logger(__name__)

PLACES_MAX: Final = 256
"""Workers on one machine, at the most."""
RECORD_BYTES_MAX: Final = 4096


class StoreBoots:
    """`darkroom.consumer.worker.ports.Boots` on the object store and lock files."""

    def __init__(
        self, objects: Objects, *, deployment: str, folder: Path | None = None, host: str | None = None
    ) -> None:
        """`deployment` tells the places of one group in one store from those of others on the same machine.

        `folder` holds the lock files: by default one of this user in the system's folder for temporary files.
        """
        self._objects = objects
        self._deployment = hashlib.sha256(deployment.encode()).hexdigest()[:12]
        self._folder = folder or Path(tempfile.gettempdir()) / f"darkroom-places-{os.getuid()}"
        self._host = host or socket.gethostname()
        self._boot: Boot = os.urandom(8).hex()
        self._lock: IO[bytes] | None = None

    @property
    def boot(self) -> Boot:
        """This process's own."""
        return self._boot

    async def announce(self) -> None:
        """Note in the store that this boot runs."""
        place = f"{self._objects.prefix}.boots/places/{self._take_place()}.json"
        last = await self._read(place)
        if last is not None and (boot := last.get("boot")) and (await self._state(boot)) == "running":
            log.warning("the worker that was here before ended without a word", boot=boot)
            await self._write(self._key(boot), {"state": "crashed"})
        await self._write(self._key(self._boot), {"state": "running"})
        await self._write(place, {"boot": self._boot})

    async def ending(self) -> None:
        """Note in the store that this boot ends on purpose."""
        with contextlib.suppress(StoreUnavailable):
            await self._write(self._key(self._boot), {"state": "ended"})

    async def fates(self, boots: frozenset[Boot], members: frozenset[str]) -> Mapping[Boot, Fate]:
        """Return the fates of boots. A member's client id ends with its boot."""
        return {boot: await self._fate(boot, members) for boot in boots}

    def release(self) -> None:
        """Give up the place."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def _fate(self, boot: Boot, members: frozenset[str]) -> Fate:
        if any(member.endswith(boot) for member in members):
            return Fate.ALIVE
        try:
            state = await self._state(boot)
        except StoreUnavailable:
            return Fate.GONE
        return {"crashed": Fate.CRASHED, "ended": Fate.ENDED}.get(state or "", Fate.GONE)

    async def _state(self, boot: Boot) -> str | None:
        record = await self._read(self._key(boot))
        return None if record is None else record.get("state")

    def _key(self, boot: Boot) -> str:
        return f"{self._objects.prefix}.boots/{boot}.json"

    async def _read(self, key: str) -> dict[str, str] | None:
        try:
            content = await self._objects.get(key, bytes_max=RECORD_BYTES_MAX)
            record = None if content is None else json.loads(content)
        except (ObjectTooLarge, ValueError):
            log.warning("an object is not what a worker writes there; it is passed over", key=key)
            return None
        return record if isinstance(record, dict) else None

    async def _write(self, key: str, record: Mapping[str, str]) -> None:
        await self._objects.put(key, json.dumps(record).encode(), "application/json")

    def _take_place(self) -> str:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in range(PLACES_MAX):
            name = f"{self._host}-{self._deployment}-{place}"
            lock = (self._folder / f"{name}.lock").open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            self._lock = lock
            return name
        raise OSError(f"There are {PLACES_MAX} workers on this machine already, by the locks in {self._folder}.")
