"""One worker process of the simulation: the real core, driver, rendering, delivery and intake on simulated edges."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.jobs import JobFacts
from darkroom.consumer.core.journal import Boot, Fate
from darkroom.consumer.core.lifecycle import Phase
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.worker.boots import StoreBoots
from darkroom.consumer.worker.delivery import Delivery
from darkroom.consumer.worker.driver import Driver, EngineGone
from darkroom.consumer.worker.intake import Intake
from darkroom.consumer.worker.payload import Payloads, Received
from darkroom.consumer.worker.ports import BrokerGone, BrokerUnavailable, Record
from darkroom.consumer.worker.rendering import Rendering
from darkroom.inference.planning.request_costs import RequestCosts
from darkroom.inference.types import RenderJob
from darkroom.producer.store.objects import Objects, StoreUnavailable
from darkroom.schemas.settings import Settings
from tests.inference.profiles import profile
from tests.simulation.clock import Gate, Run, VirtualLoop
from tests.simulation.engine import INFO, SimEngine, SimRow, Troubles
from tests.simulation.invariants import Invariants, job_key
from tests.simulation.kafka import Cluster
from tests.simulation.member import POLL_RECORDS_MAX, SimBroker
from tests.simulation.requests import START
from tests.simulation.store import SimObjects
from tests.simulation.wire import Wire

ROWS_MAX = 3
"""Images of the largest request that is sent."""
_SETTINGS: dict[str, Settings] = {}


@dataclass(slots=True)
class Surroundings:
    """What all processes share."""

    loop: VirtualLoop
    rng: random.Random
    cluster: Cluster
    kafka: Wire
    store: Wire
    invariants: Invariants
    troubles: Troubles
    failed_once: set[str]
    tell: Callable[[str], None]
    told: Callable[[str, on.Event, tuple[do.Effect, ...]], None]
    crash: Callable[[Process], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process runs: a restarted one comes back to the same place."""

    host: str
    number: int


class SimBoots(StoreBoots):
    """The real one, with a place and a name from the simulation instead of lock files and the system's randomness."""

    def __init__(self, objects: Objects, place: Place, boot: Boot) -> None:
        super().__init__(objects, deployment="simulation", host=place.host)
        self._place = place
        self._boot = boot

    def _take_place(self) -> str:
        return f"{self._place.host}-{self._place.number}"

    async def fates(self, boots: frozenset[Boot], members: frozenset[str]) -> Mapping[Boot, Fate]:
        """As the real one, in an order that is the same in every run."""
        return {boot: await self._fate(boot, members) for boot in sorted(boots)}


class VirtualIntake(Intake):
    """The real one, by the simulation's time of day, on a machine whose clock is wrong by `skew_s`."""

    def __init__(self, settings: Settings, skew_s: float) -> None:
        super().__init__(
            lambda: INFO,
            settings.limits,
            request_bytes_max=settings.limits.request_bytes_max,
            costs=RequestCosts(profile(), INFO.latent_factor, rows_max=1),  # so that there are backlogs
        )
        self._skew_s = skew_s

    def take(self, partition: PartitionKey, record: Record, *, now: float, wall: datetime) -> tuple[JobFacts, Received]:
        """As the real one."""
        wall = START + timedelta(seconds=now + self._skew_s)
        return super().take(partition, record, now=now, wall=wall)


class Process:
    """A worker from its start to its end, however it ends."""

    def __init__(self, around: Surroundings, place: Place, boot: Boot, limits: Limits, *, jitter: float) -> None:
        self._around = around
        self.place = place
        self.boot = boot
        self.gate = Gate(f"{place.host}.{place.number}.{boot[-3:]}")
        self.gate.on_fuse = lambda: around.crash(self)
        self.limits = limits
        self.draining_since: float | None = None
        self._had_begun = False
        self.ended = False
        self.clean: bool | None = None
        self.core = Core(limits, boot=boot, jitter=jitter)
        self.payloads: Payloads = {}
        self.engine = SimEngine(self, limits.batch_rows_max)
        objects = SimObjects(around.invariants.memory, around.store, around.invariants)
        delivery = Delivery(_settings(place.host), objects, lambda _completion: None)
        delivery.loaded(INFO)
        self.client_id = f"{place.host}.{boot}"
        self.broker = SimBroker(
            around.cluster, around.kafka, around.rng, around.invariants, boot=boot, client_id=self.client_id
        )
        settings, skew_s = _settings(place.host), around.rng.choice((0.0, 0.0, 0.0, -40.0, 40.0))
        self.driver = Driver(
            core=self.core,
            broker=self.broker,
            boots=SimBoots(objects, place, boot),
            rendering=lambda post, stopped: Rendering(self.engine, post, stopped, around.loop.time),
            delivery=delivery,
            intake=lambda: VirtualIntake(settings, skew_s),
            payloads=self.payloads,
        )
        self.driver.observers.append(self._observe)

    def start(self) -> None:
        """Run it."""
        context = self._around.loop.in_process(self.gate)
        main = self._around.loop.create_task(self.driver.run(), context=context)
        main.add_done_callback(self._ended, context=self._around.loop.world)

    def drain(self) -> None:
        """SIGTERM."""
        if self.draining_since is None and not self.ended:
            self.draining_since = self._around.loop.time()
            self._had_begun = self.core.phase is Phase.RUNNING
            self._around.loop.call_soon(self.driver.drain, context=self._around.loop.in_process(self.gate))

    def cancel(self, request_id: str) -> None:
        """The process read a cancellation."""
        context = self._around.loop.in_process(self.gate)
        self._around.loop.call_soon(self.driver.cancel, ("default", request_id), context=context)

    @property
    def is_alive(self) -> bool:
        """Whether it may still do something."""
        return self.gate.run is not Run.DEAD and not self.ended

    @property
    def has_suspects(self) -> bool:
        """Whether its end now would count against a request: it is under trial, or the journal may still say so."""
        return bool(self.core.flow.suspects) or any(one.suspects for one in self.core.partitions.values())

    def _ended(self, main: asyncio.Task[bool]) -> None:
        self.ended = True
        invariants, now = self._around.invariants, self._around.loop.time()
        error = None if main.cancelled() else main.exception()
        says = isinstance(error, BrokerUnavailable | BrokerGone | StoreUnavailable | EngineGone) or error is None
        invariants.check("the_worker_fails_only_as_it_says", says and not main.cancelled(), lambda: f"{error!r}")
        if error is None and not main.cancelled():
            self.clean = main.result()
            weather, since = self._around.store.weather, self.draining_since
            if self._had_begun and not weather.ever_rough and since is not None and weather.away_until < since:
                invariants.drained.add(self.boot)
        self._around.tell(f"{self.gate.name} ended: clean={self.clean} {error!r}")
        self._around.loop.outside(0.0, self._look_back, now)

    def _look_back(self, ended_at: float) -> None:
        left = self.gate.unfinished()
        self._around.invariants.check("no_task_is_left", not left, lambda: f"{self.gate.name}: {left}")
        self.gate.run = Run.DEAD

    # --- What its engine and its core say --------------------------------------------------------------------

    @property
    def rng(self) -> random.Random:
        """The world's."""
        return self._around.rng

    @property
    def loop(self) -> VirtualLoop:
        """The world's."""
        return self._around.loop

    @property
    def troubles(self) -> Troubles:
        """The world's."""
        return self._around.troubles

    @property
    def mark(self) -> str:
        """What tells this process's pictures from others' of the same request."""
        return self.boot

    def may_fail(self, prompt: str) -> bool:
        """Whether a job may fail for no reason of its own: once at the most, or failing it would be right."""
        if prompt in self._around.failed_once:
            return False
        self._around.failed_once.add(prompt)
        return True

    def die(self) -> None:
        """A request killed the process."""
        self._around.tell(f"{self.gate.name} is killed by a request")
        self._around.crash(self)

    def preparing(self, job: RenderJob) -> None:
        """Before a job is handed to the lanes."""
        beside = [(held.job.request.prompt, job_key(name)) for name, held in self.engine._monitor._jobs.items()]
        key = job_key(job.job_id)
        self._around.tell(f"{self.gate.name} prepares {key.partition}:{key.offset} ({job.request.prompt})")
        self._around.invariants.preparing(self.boot, self.core, job.request.prompt, key, beside)

    def rows_on_device(self, rows: Sequence[SimRow]) -> None:
        """Before a step."""
        most = self.limits.batch_rows_max
        self._around.invariants.check("bounds_hold", len(rows) <= most, lambda: f"{len(rows)} rows share a step")

    def _observe(self, event: on.Event, effects: tuple[do.Effect, ...]) -> None:
        around = self._around
        if effects or not isinstance(event, on.Tick | on.PositionAdvanced):
            around.told(self.gate.name, event, effects)
        around.invariants.core(self.core, self.payloads, self.limits, ROWS_MAX, POLL_RECORDS_MAX * ROWS_MAX)


def _settings(host: str) -> Settings:
    if host not in _SETTINGS:
        _SETTINGS[host] = Settings(worker={"name": host})
    return _SETTINGS[host]
