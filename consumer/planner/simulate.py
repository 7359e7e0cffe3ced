"""What latency a worker would have: the real core under a load, on a clock and a device of the caller's choice.

`simulate` puts the core on a virtual clock and a device that takes what a profile says. `CoreRun` is the part that does
not depend on either: it performs the core's effects with a Kafka and a store that answer after set times and never
fail.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.jobs import JobFacts
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.offset_map import Commit
from darkroom.consumer.core.partition_key import JobKey, PartitionKey, RowKey
from darkroom.consumer.planner.virtual import Alarm, Clock, DeviceListener, VirtualClock, VirtualDevice
from darkroom.inference.contract import BatchKey, RenderRequest, RowId
from darkroom.inference.planning.profile import DeviceProfile

TOPIC: Final = "simulated"
_PICTURE_BYTES: Final = 100_000
_RECORD_BYTES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request and when it comes."""

    at_s: float
    request: RenderRequest
    batch_key: BatchKey
    priority: int = 4


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds that everything beside the device takes. All 0: only the device and the batcher's choices are seen."""

    look_up_s: float = 0.0
    """Asking the store for an outcome that stands."""
    commit_s: float = 0.0
    """A transaction: there are two of a request, the journal's and the completion's."""
    prepare_s: float = 0.0
    settle_s: float = 0.0
    """Storing the pictures and the outcome."""


@dataclass(slots=True)
class Run:
    """What came of a load."""

    latencies_s: list[float]
    """By arrival: from its time to its published completion."""
    busy_s: float = 0.0
    """In which the device took steps."""
    ended_at_s: float = 0.0
    steps_by_rows: Counter[int] = field(default_factory=Counter)

    def latency_s(self, share: float) -> float:
        """The latency that this share of the requests keeps within, by nearest rank: 0.95 gives the p95."""
        ordered = sorted(self.latencies_s)
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


class RunDevice(Protocol):
    """The engine's side of a run. Jobs are named by their arrival's number in decimal."""

    def prepare(self, job_id: str, request: RenderRequest, key: BatchKey) -> None:
        """Answered by `CoreRun.prepared`."""

    def admit(self, rows: Sequence[RowId]) -> None:
        """Answered by `CoreRun.boundary` and `CoreRun.rendered`."""


class CoreRun:
    """A core with its partitions open, and everything around it but the device."""

    def __init__(
        self, arrivals: Sequence[Arrival], clock: Clock, limits: Limits, delays: Delays, *, partitions: int = 1
    ) -> None:
        """`device` is set before `begin`. Arrivals, in the order of their times, go to the partitions in turn."""
        self.device: RunDevice
        self.latencies_s = [math.nan] * len(arrivals)
        self.unfinished = len(arrivals)
        self._arrivals = arrivals
        self._clock = clock
        self._delays = delays
        self._partitions = [PartitionKey(TOPIC, number) for number in range(partitions)]
        self._log: dict[PartitionKey, list[JobFacts]] = {key: [] for key in self._partitions}
        self._delivering: set[PartitionKey] = set()
        self._core = Core(limits)
        self._alarm = Alarm(clock, lambda: self._handle(on.Tick()))
        self._began_at = 0.0

    def begin(self) -> None:
        """Open the partitions and ask for the first arrival."""
        self._began_at = self._clock.now()
        self._handle(on.Started())
        self._handle(on.PartitionsAssigned(frozenset(self._partitions)))
        self._await(0)

    # --- What the device says ----------------------------------------------------------------------------

    def prepared(self, job_id: str, key: BatchKey, cap: int | None) -> None:
        """A job's rows may join."""
        if cap is not None:
            self._handle(on.CapKnown(key, cap))
        self._handle(on.Prepared(self._key(int(job_id)), key))

    def boundary(self, retired: Sequence[RowId]) -> None:
        """Rows are complete."""
        self._handle(on.StepBoundary(tuple(RowKey(self._key(int(row.job_id)), row.image) for row in retired)))

    def rendered(self, job_id: str) -> None:
        """A job has all its pictures."""
        self._handle(on.Rendered(self._key(int(job_id)), _PICTURE_BYTES))

    # --- Kafka, the store, the clock ----------------------------------------------------------------------

    def _await(self, number: int) -> None:
        if number < len(self._arrivals):
            due = self._began_at + self._arrivals[number].at_s
            self._clock.later(due - self._clock.now(), lambda: self._arrive(number))

    def _arrive(self, number: int) -> None:
        arrival, key = self._arrivals[number], self._key(number)
        facts = JobFacts(
            key=key,
            identity=("simulated", str(number)),
            rows=arrival.request.count,
            size_bytes=_RECORD_BYTES,
            priority=arrival.priority,
            waiting_since=self._began_at + arrival.at_s,
        )
        self._log[key.partition_key].append(facts)
        self._await(number + 1)
        self._deliver(key.partition_key)

    def _deliver(self, partition: PartitionKey) -> None:
        held = self._core.partitions[partition]
        log = self._log[partition]
        while partition in self._delivering and held.account.position < len(log):
            self._handle(on.RecordArrived(log[held.account.position], held.epoch))

    def _handle(self, event: on.Event) -> None:
        for effect in self._core.handle(event, self._clock.now()):
            self._perform(effect)
        self._alarm.set(self._core.wake_at())

    def _perform(self, effect: do.Effect) -> None:
        delays = self._delays
        match effect:
            case do.LookUp(job):
                self._answer(delays.look_up_s, on.OutcomeAbsent(job))
            case do.Prepare(job):
                number = self._number(job)
                arrival = self._arrivals[number]
                self.device.prepare(str(number), arrival.request, arrival.batch_key)
            case do.Admit(rows):
                self.device.admit([RowId(str(self._number(row.job)), row.image) for row in rows])
            case do.Settle(job):
                self._answer(delays.settle_s, on.Settled(job))
            case do.Publish():
                self._clock.later(delays.commit_s, lambda: self._publish(effect))
            case do.OpenPartition(partition, epoch):
                self._answer(0.0, on.PartitionOpened(partition, epoch, Commit(0)))
            case do.Resume(partition):
                self._delivering.add(partition)
                self._clock.later(0.0, lambda: self._deliver(partition))
            case do.Pause(partition):
                self._delivering.discard(partition)
            case _:
                pass  # nothing fails here, so nobody leaves; what is forgotten was published

    def _answer(self, seconds: float, event: on.Event) -> None:
        self._clock.later(seconds, lambda: self._handle(event))

    def _publish(self, effect: do.Publish) -> None:
        for job in effect.jobs:
            number = self._number(job)
            self.latencies_s[number] = self._clock.now() - self._began_at - self._arrivals[number].at_s
            self.unfinished -= 1
        self._handle(on.Published(effect.partition, effect.epoch))

    def _key(self, number: int) -> JobKey:
        partition, offset = number % len(self._partitions), number // len(self._partitions)
        return JobKey(TOPIC, partition, offset)

    def _number(self, job: JobKey) -> int:
        return job.offset * len(self._partitions) + job.partition


def simulate(
    profile: DeviceProfile,
    arrivals: Sequence[Arrival],
    limits: Limits | None = None,
    delays: Delays | None = None,
    *,
    partitions: int = 1,
) -> Run:
    """The latencies of a load on one worker whose device has this profile. The same arguments, the same answer.

    Raises `RuntimeError` where a request is never answered: a bug of the core, or limits that no load can pass.
    """
    clock, limits, delays = VirtualClock(), limits or Limits(), delays or Delays()
    run = CoreRun(arrivals, clock, limits, delays, partitions=partitions)
    listener = DeviceListener(run.prepared, run.boundary, run.rendered)
    device = VirtualDevice(profile, clock, listener, rows_max=limits.batch_rows_max, prepare_s=delays.prepare_s)
    run.device = device
    run.begin()
    clock.run()
    if run.unfinished:
        raise RuntimeError(f"{run.unfinished} of {len(arrivals)} requests were never answered")
    return Run(run.latencies_s, device.busy_s, clock.now(), device.steps_by_rows)


def poisson(
    template: RenderRequest, key: BatchKey, *, per_second: float, count: int, seed: int, steps: Sequence[int] = ()
) -> Iterator[Arrival]:
    """`count` arrivals of a Poisson process, like the template; `steps`, where given, are drawn from evenly."""
    rng = random.Random(seed)  # noqa: S311 - a load, not a secret
    at_s = 0.0
    for number in range(count):
        at_s += rng.expovariate(per_second)
        request = replace(template, steps=rng.choice(steps) if steps else template.steps, seed=number)
        yield Arrival(at_s, request, key)
