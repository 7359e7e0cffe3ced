"""A seeded world: workers, Kafka, the store and what befalls them. The same seed is the same history."""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
from collections import deque
from typing import Any

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.limits import Limits
from tests.simulation.clock import Run, VirtualLoop
from tests.simulation.engine import Troubles
from tests.simulation.faults import Faults, Focus
from tests.simulation.initializing import initialize
from tests.simulation.invariants import Invariants, Violation
from tests.simulation.kafka import Cluster
from tests.simulation.process import Place, Process, Surroundings
from tests.simulation.requests import POSE_KEY, Requests
from tests.simulation.wire import Weather, Wire, at_once

LIMITS = Limits(
    batch_rows_max=3,
    oom_probe_s=2.0,
    ahead_rows_max=1,
    begin_ahead_rows_max=8,
    prepare_ahead_rows_max=5,
    offset_window=8,
    waiting_rows_max=12,
    unsettled_bytes_max=500,
    publish_jobs_max=4,
    drain_s=4.0,
    backoff_s_max=2.0,
    key_switch_s=0.5,
    backlog_s=0.3,
)
TROUBLED_S = 15.0
"""How long faults happen."""
HEALED_S_MAX = 240.0
"""How long everything may take to end after that."""
DRAIN_S_MAX = LIMITS.drain_s + 20.0
"""How long a drained process may live: its drain, and the time limits of the calls that it waits for."""
EMPTY_S_MAX = 8.0
"""How long whoever runs `init` waits for a group without members; there are few such moments."""
TRACE_LINES_MAX = 400


class World:
    """One history."""

    def __init__(self, seed: int, *, trace: bool = False, focus: Focus | None = None) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.loop.set_exception_handler(self._on_loop_error)
        self.loop.on_standstill = lambda: self._violated(Violation("time_goes_on", "the loop turns on the spot"))
        self.trace: deque[tuple[Any, ...]] = deque(maxlen=TRACE_LINES_MAX)
        self.violation: Violation | None = None
        self._digest = hashlib.sha256()
        self._trace_all = trace
        rng = self.rng
        self.invariants = Invariants(self._violated)
        at_once(self.invariants.memory.put(POSE_KEY, b"a pose", "image/png"))
        self.requests = Requests(
            rng,
            odd=rng.choice((0.0, 0.2, 0.5)),
            repeats=rng.choice((0.0, 0.1, 0.3)),
            poison=rng.choice((0, 0, 0, 1, 2)),
        )
        self.invariants.requests = self.requests
        self.cluster = Cluster(self.loop, rng, partitions=rng.randrange(1, 5))
        self.cluster.on_commit.append(self.invariants.on_commit)
        self.cluster.hears = self._hears
        self.cluster.lives = lambda client_id: any(one.client_id == client_id for one in self.alive)
        self.kafka, self.store = Weather(), Weather()
        self.around = Surroundings(
            loop=self.loop,
            rng=rng,
            cluster=self.cluster,
            kafka=Wire(self.loop, rng, self.kafka, timeout_s=3.0),
            store=Wire(self.loop, rng, self.store, timeout_s=2.0),
            invariants=self.invariants,
            troubles=Troubles(),
            failed_once=set(),
            tell=self.tell,
            told=self._told,
            crash=self.crash,
        )
        self.processes: list[Process] = []
        self.to_send = rng.randrange(10, 36)
        self.cancellations: list[str] = []
        self._boots = 0
        self._hosts = 0
        self._inits: list[asyncio.Task[None]] = []
        self.restarting = True
        """Whether the place of a process that ended is taken again."""
        self.faults = Faults(self, focus)

    # --- A history -----------------------------------------------------------------------------------------

    def run(self) -> str:
        """From the start to the end of everything. Returns the history's digest; raises `Violation`."""
        main = self.loop.create_task(self._live())
        try:
            self.loop.run_until_complete(main)
        except RuntimeError:
            if self.violation is None:
                raise
        finally:
            tasks = [task for process in self.processes for task in process.gate.tasks]
            self.loop.dispose([*tasks, main])
        if self.violation is not None:
            raise self.violation
        return self._digest.hexdigest()

    async def _live(self) -> None:
        for _ in range(self.rng.randrange(1, 5)):
            self.start_process(self.new_host())
        sending = self.loop.create_task(self._send())
        await self.faults.happen(TROUBLED_S)
        await sending
        self.faults.stop()
        await asyncio.gather(*self._inits)
        await self._until_all_ended()
        await self._drain_all()
        self.invariants.at_the_end(self.cluster.partitions)

    async def _send(self) -> None:
        keys = list(self.cluster.partitions)
        weights = [self.rng.choice((1, 1, 1, 8)) for _ in keys]  # sometimes one partition is far hotter than the rest
        while self.to_send:
            for _ in range(self.rng.choice((1, 1, 2, 6))):
                key = self.rng.choices(keys, weights)[0]
                if self.rng.random() < 0.1:
                    key = self.rng.choice(list(self.cluster.partitions))
                if self.to_send:
                    self.to_send -= 1
                    self.cluster.append(key, self.requests.next(self.loop.time()))
                if self.rng.random() < 0.15:
                    self.cluster.append(key, None)
            await asyncio.sleep(self.rng.random() * 2 * TROUBLED_S / 40)

    async def _until_all_ended(self) -> None:
        until = self.loop.time() + HEALED_S_MAX
        while self.loop.time() < until:
            if not self.invariants.unfinished(self.cluster.partitions):
                return
            await asyncio.sleep(0.5)
        self.invariants.check(
            "everything_ends", False, lambda: f"left: {self.invariants.unfinished(self.cluster.partitions)}"
        )

    async def _drain_all(self) -> None:
        self.restarting = False
        for process in self.processes:
            if process.is_alive:
                process.drain()
                await asyncio.sleep(self.rng.random())
        await asyncio.sleep(DRAIN_S_MAX)
        for process in self.processes:
            self.invariants.check("a_drain_ends_in_time", not process.is_alive, lambda: process.gate.name)  # noqa: B023

    # --- Processes -----------------------------------------------------------------------------------------

    @property
    def alive(self) -> list[Process]:
        """The processes that may still do something, in order of their start."""
        return [process for process in self.processes if process.is_alive]

    def new_host(self) -> str:
        """The name of a machine that was not there before."""
        self._hosts += 1
        return f"host{self._hosts}"

    def start_process(self, host: str) -> Process:
        """A new process at the lowest place that is free there."""
        self._boots += 1
        taken = {process.place.number for process in self.alive if process.place.host == host}
        place = Place(host, min(set(range(len(taken) + 1)) - taken))
        boot = f"{self.rng.getrandbits(48):012x}{self._boots:04x}"
        process = Process(self.around, place, boot, LIMITS, jitter=self.rng.random())
        self.tell(f"{process.gate.name} starts")
        self.processes.append(process)
        process.start()
        for request_id in self.cancellations:
            process.cancel(request_id)
        self._watch(process)
        return process

    def _watch(self, process: Process) -> None:
        """Restart what ended, as a supervisor does; count what drains."""
        if process.is_alive:
            since = process.draining_since
            late = since is not None and self.loop.time() - since > DRAIN_S_MAX and not self.faults.active
            self.invariants.check("a_drain_ends_in_time", not late, lambda: process.gate.name)
            self.loop.outside(0.5, self._watch, process)
        elif self.restarting and not any(one.place.host == process.place.host for one in self.alive):
            self.loop.outside(self.rng.random() * 2, self._restart, process.place.host)

    def _restart(self, host: str) -> None:
        if self.restarting and not any(one.place.host == host for one in self.alive):
            self.start_process(host)

    def crash(self, process: Process) -> None:
        """kill -9: nothing of it runs any more, and the group finds out by itself."""
        if not process.is_alive:
            return
        self.tell(f"{process.gate.name} dies")
        process.gate.run = Run.DEAD
        self.cluster.silent(process.client_id, lambda: True)

    def freeze(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and SIGCONT later."""
        self.tell(f"{process.gate.name} freezes for {seconds:.1f} s")
        process.gate.run = Run.FROZEN
        until = self.loop.time() + seconds
        still = lambda: process.gate.run is Run.FROZEN and self.loop.time() <= until  # noqa: E731
        self.cluster.silent(process.client_id, still)
        self.loop.outside(seconds, self.thaw, process)

    def thaw(self, process: Process) -> None:
        """It goes on where it was, as a zombie if it was away for too long."""
        if process.gate.run is Run.FROZEN:
            self.tell(f"{process.gate.name} goes on")
            self.loop.thaw(process.gate)

    def cancel(self, request_id: str) -> None:
        """The requester takes a request back: every worker hears of it."""
        self.requests.cancelled.add(request_id)
        self.cancellations.append(request_id)
        for process in self.alive:
            process.cancel(request_id)

    def initialize(self) -> None:
        """Somebody runs `darkroom init`."""
        self._inits.append(self.loop.create_task(self._initialize()))

    async def _initialize(self) -> None:
        until = self.loop.time() + EMPTY_S_MAX
        while self.cluster.members and self.loop.time() < until:
            await asyncio.sleep(0.02)
        self.tell("init runs")
        self.tell(f"init: {await initialize(self.cluster, self.around.kafka, self.rng)}")

    def _hears(self, client_id: str) -> bool:
        return not any(one.client_id == client_id and one.gate.run is Run.FROZEN for one in self.processes)

    # --- What is told --------------------------------------------------------------------------------------

    def tell(self, line: str) -> None:
        """One line of the history."""
        now = self.loop.time()
        self._digest.update(f"{now} {line}".encode())
        self.trace.append((now, line))
        if self._trace_all:
            print(f"{now:9.4f} {line}")

    def _told(self, name: str, event: on.Event, effects: tuple[do.Effect, ...]) -> None:
        """What a core was told and what it answered; written out only where somebody reads it."""
        if self._trace_all:
            self.tell(_shortened(name, event, effects))
        else:
            now = self.loop.time()
            self._digest.update(f"{now} {name} {type(event).__name__} {len(effects)}".encode())
            self.trace.append((now, name, event, effects))

    def history(self) -> list[str]:
        """The last lines."""
        return [f"{entry[0]:9.4f} {entry[1] if len(entry) == 2 else _shortened(*entry[1:])}" for entry in self.trace]

    def _violated(self, violation: Violation) -> None:
        if self.violation is None:
            self.violation = violation
            self.tell(f"VIOLATION {violation}")
            self.loop.stop()

    def _on_loop_error(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._violated(Violation("the_worker_fails_only_as_it_says", f"{context.get('message')}: {error!r}"))


def _shortened(name: str, event: on.Event, effects: tuple[do.Effect, ...]) -> str:
    text = f"{name} {event} -> {list(effects)}"
    text = re.sub(r"PartitionKey\(topic='[^']*', partition=(\d+)\)", r"p\1", text)
    return re.sub(r"JobKey\(topic='[^']*', partition=(\d+), offset=(\d+)\)", r"\1:\2", text)
