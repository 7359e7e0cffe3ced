"""The workers of a run: real processes, each behind proxies of its own, started again whenever one ends.

The restarting is what a container's supervisor does; a worker that a request crashed or that gave up on a dead
broker comes back the same way. Each start has a name and a log of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.proxy import Link, Proxy
from tests.integration.fleet import WorkerProcess

RESTART_S = 0.5
"""From a worker's end to its next start."""
LOOK_S = 0.05


@dataclass(slots=True)
class Place:
    """Where one worker runs, one process after the other."""

    number: int
    kafka: Proxy
    s3: Proxy
    environment: Mapping[str, str]
    worker: WorkerProcess | None = None
    starts: int = 0
    ends: list[int] = field(default_factory=list)
    """Exit codes of the processes that ended; -9 for a SIGKILL."""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it lives."""
        if self.worker is not None and self.worker.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.worker.process.pid, number)


class Crew:
    """Keeps so many workers running."""

    def __init__(
        self, environment: Mapping[str, str], folder: Path, flags: tuple[str, ...], *, kafka_port: int, s3_port: int
    ) -> None:
        self._environment = environment
        self._folder = folder
        self._flags = flags
        self._ports = kafka_port, s3_port
        self._supervising: asyncio.Task[None] | None = None
        self.places: list[Place] = []
        self.workers: list[WorkerProcess] = []

    async def start(self, number_of: int) -> None:
        """Start the workers and wait until all are ready."""
        for number in range(number_of):
            kafka, s3 = Proxy(self._ports[0], kafka=True), Proxy(self._ports[1])
            await kafka.start()
            await s3.start()
            environment = {
                **self._environment,
                "DARKROOM_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{kafka.port}",
                "DARKROOM_S3__ENDPOINT": f"http://127.0.0.1:{s3.port}",
            }
            self.places.append(Place(number, kafka, s3, environment))
        self._supervising = asyncio.create_task(self._supervise())

    async def all_ready(self, limit_s: float) -> None:
        """Wait until every worker takes records. Raises `TimeoutError`."""
        async with asyncio.timeout(limit_s):
            for place in self.places:
                await self.ready(place)

    async def ready(self, place: Place) -> None:
        """Wait until the worker at a place takes records."""
        while not await asyncio.to_thread(self._is_ready, place):
            await asyncio.sleep(0.2)

    async def ended(self, place: Place, worker: WorkerProcess | None) -> None:
        """Wait until this process has ended."""
        while worker is not None and place.worker is worker and worker.process.poll() is None:
            await asyncio.sleep(LOOK_S)

    def heal(self) -> None:
        """End whatever is wrong with links and processes."""
        for place in self.places:
            place.kafka.link = place.s3.link = Link()
            place.signal(signal.SIGCONT)

    def exits(self) -> Counter[int]:
        """How the processes ended, by exit code, the drains at the end of the run left out."""
        return Counter(code for place in self.places for code in place.ends)

    async def drain(self, limit_s: float) -> list[int]:
        """SIGTERM to all at once, and no new starts. Exit codes by place. Raises `TimeoutError`."""
        await self._stop_supervising()
        for place in self.places:
            place.signal(signal.SIGTERM)
        codes = []
        async with asyncio.timeout(limit_s):
            for place in self.places:
                if place.worker is not None:
                    await self.ended(place, place.worker)
                    codes.append(place.worker.process.returncode)
        return codes

    async def stop(self) -> None:
        """Whatever still runs."""
        await self._stop_supervising()
        for place in self.places:
            if place.worker is not None and place.worker.process.poll() is None:
                place.worker.kill()
            await place.kafka.close()
            await place.s3.close()

    def rendered(self) -> Counter[str]:
        """How often each request was rendered, by the workers' logs."""
        return Counter(entry["request_id"] for worker in self.workers for entry in worker.events("rendered"))

    async def _stop_supervising(self) -> None:
        if self._supervising is not None:
            self._supervising.cancel()
            await asyncio.gather(self._supervising, return_exceptions=True)
            self._supervising = None

    async def _supervise(self) -> None:
        restart_at: dict[int, float] = {}
        while True:
            now = asyncio.get_running_loop().time()
            for place in self.places:
                if place.worker is not None and place.worker.process.poll() is not None:
                    place.ends.append(place.worker.process.returncode)
                    place.worker = None
                    restart_at[place.number] = now + RESTART_S
                if place.worker is None and now >= restart_at.get(place.number, 0.0):
                    name = f"w{place.number}-{place.starts}"
                    place.worker = WorkerProcess(place.environment, self._folder, name, *self._flags)
                    place.starts += 1
                    self.workers.append(place.worker)
            await asyncio.sleep(LOOK_S)

    @staticmethod
    def _is_ready(place: Place) -> bool:
        worker = place.worker
        return worker is not None and worker.process.poll() is None and worker.is_ready()
