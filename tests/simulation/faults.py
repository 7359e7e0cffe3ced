"""What befalls a world while it is troubled: which kinds, how often and how hard is drawn from the seed.

Few kinds at a time and often finds more than all kinds and seldom (swarm testing), so each seed leaves most out.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING

from darkroom.consumer.core.events import Refusal
from tests.simulation.clock import Run

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

DAMAGED_MAPS = ("", "dr1.", "dr0.AAAA", "not a map", "dr1.AAAAAAAAAA")
SMALL_RECORD_BYTES = 2_000
"""Above every completion here, and below the dead letter of a large record."""
PROCESSES_MAX = 5
PARTITIONS_MAX = 5


class Focus(Enum):
    """What there is to be much of."""

    REBALANCES = "rebalances"
    DRAINS = "drains"
    MAPS = "damaged maps"
    MOVES = "coordinators that move while partitions are opened"
    DEAD_CLIENTS = "consumers that read no more"
    INIT = "`init` while all workers are restarted"
    REFUSALS = "publications that are refused"


class Faults:
    """Draws the kinds and their rates, and lets them happen."""

    def __init__(self, world: World, focus: Focus | None = None) -> None:
        self._world = world
        self.active = True
        rng = world.rng
        kinds: list[Callable[[], None]] = [
            self._crash,
            self._crash_soon,
            self._freeze,
            self._freeze_shortly,
            self._rebalance,
            self._evict,
            self._kafka_away,
            self._store_away,
            self._drain,
            self._new_worker,
            self._replace_worker,
            self._rolling_restart,
            self._add_partition,
            self._cancel,
            self._engine_stops,
            self._damage_map,
            self._coordinator_moves,
            self._guest,
            self._consumer_dies,
            self._refuse,
            self._init,
            self._restart_all_with_init,
        ]
        self._kinds = rng.sample(kinds, rng.randrange(0, 6))
        if self._damage_map in self._kinds:
            # `init` writes again what it finds, whoever's it is: a map that somebody damaged is a commit of theirs.
            self._kinds = [one for one in self._kinds if one not in (self._init, self._restart_all_with_init)]
        self._pause_s = rng.choice((0.4, 1.0, 3.0))
        for weather in (world.kafka, world.store):
            shares = rng.choice(((0.0,), (0.0, 0.0, 0.02, 0.1)))
            weather.latency_s = rng.choice((0.002, 0.01, 0.05))
            weather.lost_before, weather.lost_after = rng.choice(shares), rng.choice(shares)
            weather.slow, weather.slow_s = rng.choice(shares), rng.choice((0.5, 6.0))
            weather.ever_rough = bool(weather.lost_before or weather.lost_after or weather.slow)
        world.cluster.metadata_chars_max = rng.choice((4096, 4096, 4096, 600, 300))
        world.cluster.record_bytes_max = rng.choice((1 << 20, 1 << 20, SMALL_RECORD_BYTES))
        troubles = world.around.troubles
        troubles.step_fails, troubles.job_fails = rng.choice((0.0, 0.0, 0.05, 0.2)), rng.choice((0.0, 0.0, 0.1))
        troubles.stalls, troubles.stall_s = rng.choice((0.0, 0.0, 0.02)), rng.choice((1.0, 8.0))
        troubles.memory_rows_max = rng.choice((99, 99, 2, 1))
        if focus is not None:
            self._focus(focus)

    def _focus(self, focus: Focus) -> None:
        """Much of one thing, for a bug that would otherwise need many seeds to show."""
        kafka, store = self._world.kafka, self._world.store
        self._pause_s = 0.4
        if focus is Focus.REBALANCES:
            self._kinds = [self._rebalance, self._rebalance, self._freeze_shortly]
            rough = self._world.rng.choice((0.0, 0.1))
            kafka.lost_before, kafka.lost_after, kafka.slow, kafka.slow_s = rough, rough, 3 * rough, 2.5
            cluster = self._world.cluster
            cluster.sticky, cluster.late_polls, cluster.late_s = 0.0, 0.5, 2.5
        elif focus is Focus.MAPS:
            self._kinds = [self._damage_map, self._damage_map_and_rebalance]
            self._world.cluster.sticky = 0.0
        elif focus is Focus.MOVES:
            self._kinds = [self._coordinator_moves, self._guest, self._rebalance]
            self._world.cluster.sticky = 0.0
        elif focus is Focus.DEAD_CLIENTS:
            self._kinds = [self._consumer_dies]
        elif focus is Focus.INIT:
            self._kinds = [self._restart_all_with_init]
            self._pause_s = 1.0
            kafka.slow, kafka.slow_s = 0.4, 2.5
            kafka.ever_rough = True
        elif focus is Focus.REFUSALS:
            self._kinds = [self._refuse]
            self._world.cluster.record_bytes_max = SMALL_RECORD_BYTES
        elif focus is Focus.DRAINS:
            self._kinds = [self._drain, self._rolling_restart]
            store.lost_before = store.lost_after = store.slow = 0.0
            store.ever_rough = False

    async def happen(self, seconds: float) -> None:
        """For so long."""
        loop, rng = self._world.loop, self._world.rng
        until = loop.time() + seconds
        while loop.time() < until:
            await asyncio.sleep(rng.random() * 2 * self._pause_s)
            if self._kinds:
                rng.choice(self._kinds)()

    def stop(self) -> None:
        """From now on only the requests themselves make trouble."""
        world = self._world
        world.tell("the faults are over")
        self.active = False
        for weather in (world.kafka, world.store):
            weather.clear(world.loop.time())
        world.cluster.moving_until = world.cluster.refused_until = 0.0
        troubles = world.around.troubles
        troubles.step_fails = troubles.job_fails = troubles.stalls = 0.0
        for process in world.alive:
            world.thaw(process)
            process.gate.fuse = None
        if not any(process.draining_since is None for process in world.alive):
            world.start_process(world.new_host())

    def _some(self) -> Process | None:
        running = [one for one in self._world.alive if one.gate.run is Run.RUNNING]
        return self._world.rng.choice(running) if running else None

    def _crash(self) -> None:
        process = self._some()
        if process is not None and not process.has_suspects:
            self._world.crash(process)

    def _crash_soon(self) -> None:
        """After some more callbacks: at whatever await point that is."""
        process = self._some()
        if process is not None and not process.has_suspects:
            process.gate.fuse = self._world.rng.randrange(1, 40)

    def _freeze(self) -> None:
        process = self._some()
        if process is not None:
            self._world.freeze(process, 2 + self._world.rng.random() * 8)

    def _freeze_shortly(self) -> None:
        process = self._some()
        if process is not None:
            self._world.freeze(process, self._world.rng.random())

    def _rebalance(self) -> None:
        self._world.tell("a rebalance")
        self._world.cluster.rebalance()

    def _evict(self) -> None:
        process = self._some()
        if process is not None:
            self._world.tell(f"{process.gate.name} is evicted")
            self._world.cluster.leave(process.client_id)

    def _kafka_away(self) -> None:
        self._world.tell("Kafka is away")
        self._world.kafka.away_until = self._world.loop.time() + self._world.rng.random() * 5

    def _store_away(self) -> None:
        self._world.tell("the store is away")
        self._world.store.away_until = self._world.loop.time() + self._world.rng.random() * 5

    def _drain(self) -> None:
        process = self._some()
        if process is not None:
            self._world.tell(f"{process.gate.name} drains")
            process.drain()

    def _new_worker(self) -> None:
        if len(self._world.alive) < PROCESSES_MAX:
            self._world.start_process(self._world.new_host())

    def _replace_worker(self) -> None:
        """An eviction by the scheduler: killed, and nobody ever comes back to its place."""
        process = self._some()
        if process is not None and not process.has_suspects:
            self._world.crash(process)
            self._world.start_process(self._world.new_host())

    def _rolling_restart(self) -> None:
        running = [one for one in self._world.alive if one.draining_since is None]
        for number, process in enumerate(running):
            self._world.loop.outside(number * 1.0, self._replace_gently, process)

    def _replace_gently(self, process: Process) -> None:
        if process.is_alive and self.active and len(self._world.alive) < PROCESSES_MAX:
            self._world.start_process(process.place.host)
            process.drain()

    def _add_partition(self) -> None:
        if len(self._world.cluster.partitions) < PARTITIONS_MAX:
            self._world.tell("a partition is added")
            self._world.cluster.add_partition()

    def _cancel(self) -> None:
        request_id = self._world.requests.any_id()
        self._world.tell(f"{request_id} is cancelled")
        self._world.cancel(request_id)

    def _engine_stops(self) -> None:
        process = self._some()
        if process is not None and not process.has_suspects:
            context = self._world.loop.in_process(process.gate)
            self._world.loop.call_soon(process.engine.stop_by_itself, context=context)

    def _coordinator_moves(self) -> None:
        """And everybody joins again."""
        cluster = self._world.cluster
        self._world.tell("the coordinator moves")
        cluster.moving_until = self._world.loop.time() + self._world.rng.random() * 4
        cluster.rebalance()

    def _guest(self) -> None:
        """For a while, or for good: a guest is no fault."""
        self._world.tell("a guest of the new protocol is in the group")
        stays_s = self._world.rng.choice((1.0, 5.0, math.inf))
        self._world.cluster.guest_until = self._world.loop.time() + stays_s

    def _consumer_dies(self) -> None:
        """As after a right that was missing: every poll fails. Now and then no new consumer does better."""
        process = self._some()
        if process is not None and not process.has_suspects:
            self._world.tell(f"{process.gate.name}'s consumer is dead")
            process.broker.consumer_is_dead = True
            process.broker.gone = self._world.rng.random() < 0.2

    def _refuse(self) -> None:
        cluster = self._world.cluster
        cluster.refusal = self._world.rng.choice((Refusal.RIGHTS, Refusal.TOPIC, Refusal.OTHER))
        self._world.tell(f"publications are refused: {cluster.refusal.value}")
        cluster.refused_until = self._world.loop.time() + self._world.rng.random() * 6

    def _init(self) -> None:
        """Beside whatever is there."""
        self._world.initialize()

    def _restart_all_with_init(self) -> None:
        """As a deployment that is stopped, upgraded and started: the group is empty for a moment."""
        for process in self._world.alive:
            process.drain()
        self._world.initialize()

    def _damage_map_and_rebalance(self) -> None:
        """So that somebody reads it before the next commit takes its place."""
        self._damage_map()
        self._rebalance()

    def _damage_map(self) -> None:
        """Another program writes metadata of its own beside the committed offset, or another partition's."""
        world = self._world
        committed = [one for one in world.cluster.partitions.values() if one.committed is not None]
        if committed:
            partition = world.rng.choice(committed)
            others = [one.committed[1] for one in committed if one.committed is not None and one is not partition]
            metadata = world.rng.choice([*DAMAGED_MAPS, *others])
            world.tell(f"the map of {partition.key.partition} is damaged: {metadata}")
            world.invariants.damage(partition, metadata)
