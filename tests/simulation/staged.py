"""A world without chance troubles, in which a test says what happens and when; the promises are checked as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from darkroom.consumer.core.jobs import JobState
from tests.simulation.clock import Run
from tests.simulation.process import Process
from tests.simulation.requests import Ending, Kind
from tests.simulation.running import silence
from tests.simulation.wire import Weather
from tests.simulation.world import World

WAIT_S_MAX = 120.0
LOOK_S = 0.05
HELD_S = 100.0
"""Longer than any fault here, so that it finds the request on the device."""


class Stage(World):
    """Requests come when the script sends them, and steps take as long as it says."""

    def __init__(self, script: Callable[[Stage], Awaitable[None]], seed: int = 1) -> None:
        super().__init__(seed)
        self._script = script
        for weather in (self.kafka, self.store):
            _calm(weather)
        troubles = self.around.troubles
        troubles.step_fails = troubles.job_fails = troubles.stalls = 0.0
        troubles.memory_rows_max = 99
        self.key = next(iter(self.cluster.partitions))

    async def _live(self) -> None:
        await self._script(self)
        self.faults.stop()
        await self._until_all_ended()
        await self._drain_all()
        self.invariants.at_the_end(self.cluster.partitions)

    def play(self) -> list[Ending]:
        """To the end of everything. Returns how the records of the first partition ended; raises `Violation`."""
        with silence():
            self.run()
        return [ending for endings in self.invariants.endings[self.key].values() for ending in endings]

    def send(self, kind: Kind = Kind.PLAIN, number_of: int = 1) -> None:
        """New requests, on the first partition."""
        for _ in range(number_of):
            sent = self.requests.make(kind, self.loop.time())
            self.cluster.append(self.key, sent)

    def hold_steps(self) -> None:
        """A step that begins from now on takes `HELD_S` longer."""
        self.around.troubles.held_s["denoise"] = HELD_S

    def let_steps_go(self) -> None:
        """What begins from now on takes its usual time."""
        self.around.troubles.held_s.clear()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        deadline = self.loop.time() + WAIT_S_MAX
        while not condition():
            assert self.loop.time() < deadline, f"waited {WAIT_S_MAX:.0f} s for {what}"
            await asyncio.sleep(LOOK_S)

    async def rendering(self, *, alone: bool) -> Process:
        """Wait for a process that has something on its device; `alone`: under trial, as its journal says."""

        def found() -> Process | None:
            for process in self.alive:
                on_device = process.core.flow.rows_in[JobState.ON_DEVICE]
                if on_device and process.draining_since is None and process.gate.run is Run.RUNNING:
                    journal = self.invariants.journals.get((process.boot, self.key), {})
                    if not alone or any(entry.alone for entry in journal.values()):
                        return process
            return None

        await self.until(lambda: found() is not None, "a worker to render")
        process = found()
        assert process is not None
        return process

    @property
    def owner_name(self) -> str | None:
        """Who has the first partition."""
        return self.cluster.owner(self.key)


def _calm(weather: Weather) -> None:
    weather.latency_s = 0.004
    weather.lost_before = weather.lost_after = weather.slow = 0.0
    weather.ever_rough = False
