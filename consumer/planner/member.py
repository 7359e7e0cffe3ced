"""The second performer of the core's effects: on a clock and a device of the caller's choice, without any I/O.

`darkroom.consumer.worker.driver` performs them on Kafka, a store and an engine. A `Member` is the same real core with a
Kafka and a store that answer after set times and never fail (`Topic`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.journal import Boot
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.offset_map import decode_commit
from darkroom.consumer.core.partition_key import JobKey, PartitionKey, RowKey
from darkroom.consumer.planner.topic import TOPIC, Delays, Topic
from darkroom.consumer.planner.virtual import Alarm, Clock, DeviceListener
from darkroom.inference.types import BatchKey, RenderRequest, RowCaps, RowId

PICTURE_BYTES = 1_500_000
"""A PNG of a megapixel; only `Limits.unsettled_bytes_max` looks at it."""


@dataclass(slots=True)
class Held:
    """A partition in a member's hands."""

    epoch: int
    token: int
    """The writer's, as of its last opening."""


class RunDevice(Protocol):
    """The engine's side of a member. It answers by its `DeviceListener`."""

    def prepare(self, job_id: str, request: RenderRequest, key: BatchKey) -> None:
        """Queue a job for preparing."""

    def admit(self, rows: Sequence[RowId]) -> None:
        """Let prepared rows join at the next boundary."""

    def set_cap(self, batch_key: BatchKey, rows: int) -> None:
        """Let at most so many rows of a key share a step from the next boundary on."""

    def drop(self, job_id: str) -> None:
        """Forget a job, known or not."""

    def close(self) -> None:
        """Drop everything."""


class Member:
    """Joins, renders, drains and leaves. Everything it is told comes at the clock's time."""

    def __init__(
        self,
        name: str,
        topic: Topic,
        clock: Clock,
        make_device: Callable[[DeviceListener], RunDevice],
        *,
        limits: Limits,
        boot: Boot,
        delays: Delays,
        open_s: float,
        on_left: Callable[[Member], None],
    ) -> None:
        """`boot` names this run. `open_s`: fencing and reading the committed offset of a partition."""
        self.name = name
        self._topic = topic
        self._clock = clock
        self._boot = boot
        self._delays = delays
        self._open_s = open_s
        self._on_left = on_left
        self._core = Core(limits, boot=boot)
        self._device = make_device(DeviceListener(self._prepared, self._boundary, self._rendered))
        self._assigned: frozenset[int] = frozenset()
        self._delivering: set[int] = set()
        self._positions: dict[int, int] = {}
        """The consumer's position in each partition that was delivered from."""
        self._opening: dict[int, int] = {}
        """By partition: the epoch of the last opening that was asked for."""
        self._held: dict[int, Held] = {}
        self._jobs: dict[str, JobKey] = {}
        """Jobs on the device's side, by the names that they have there."""
        self._alarm = Alarm(self._clock, lambda: self._handle(on.Tick()))
        self._left = False

    @property
    def rows_held(self) -> int:
        """Rows that are begun or waiting here: 0 is an idle worker."""
        return self._core.rows_to_join + self._core.snapshot().rows_on_device

    # --- The group -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """The model is loaded."""
        self._topic.joined(self._boot)
        self._handle(on.Started())

    def revoked(self) -> None:
        """A rebalance began: nothing is delivered until it ends."""
        self._delivering.clear()
        self._handle(on.PartitionsRevoked(frozenset(PartitionKey(TOPIC, one) for one in self._assigned)))

    def assigned(self, partitions: frozenset[int]) -> None:
        """It ended."""
        self._assigned = partitions
        self._handle(on.PartitionsAssigned(frozenset(PartitionKey(TOPIC, one) for one in partitions)))

    def drain(self) -> None:
        """SIGTERM: finish what is on the device and leave."""
        self._handle(on.DrainRequested())

    def deliver(self, partition: int) -> None:
        """Hand over what the partition has and the core has not, as far as the core takes it."""
        if partition not in self._delivering:
            return
        held, log = self._held[partition], self._topic.log(partition)
        while partition in self._delivering and (position := self._positions[partition]) < len(log):
            self._positions[partition] += 1
            self._handle(on.RecordArrived(log[position], held.epoch))

    # --- The device ----------------------------------------------------------------------------------------

    def _prepared(self, job_id: str, key: BatchKey, caps: RowCaps | None) -> None:
        if caps is not None:
            self._handle(on.CapKnown(key, caps.paying, caps.best))
        self._handle(on.Prepared(self._jobs[job_id], key))

    def _boundary(self, retired: Sequence[RowId]) -> None:
        self._handle(on.StepBoundary(tuple(RowKey(self._jobs[row.job_id], row.image) for row in retired)))

    def _rendered(self, job_id: str) -> None:
        self._handle(on.Rendered(self._jobs[job_id], PICTURE_BYTES))

    # --- The core ------------------------------------------------------------------------------------------

    def _handle(self, event: on.Event) -> None:
        if self._left:
            return
        for effect in self._core.handle(event, self._clock.now()):
            self._perform(effect)
        self._alarm.set(None if self._left else self._core.wake_at())

    def _perform(self, effect: do.Effect) -> None:
        """Records stay in the topic and no request of a load names a stored pose, so two effects ask for nothing."""
        delays, topic = self._delays, self._topic
        match effect:
            case do.LookUp(job):
                # Read when the answer comes: as the store does.
                self._clock.later(delays.look_up_s, lambda: self._looked_up(job))
            case do.Prepare(job):
                arrival = topic.arrivals[topic.number(job)]
                self._jobs[_job_id(job)] = job
                self._device.prepare(_job_id(job), arrival.request, arrival.batch_key)
            case do.Admit() | do.SetCap():
                self._tell_device(effect)
            case do.Settle(job):
                self._clock.later(delays.settle_s, lambda: self._settled(job))
            case do.Publish():
                self._clock.later(delays.commit_s, lambda: self._publish(effect))
            case do.OpenPartition(partition, epoch):
                self._opening[partition.partition] = epoch
                self._clock.later(self._open_s, lambda: self._open(partition, epoch))
            case do.ClosePartition(partition):
                self._opening.pop(partition.partition, None)
                self._held.pop(partition.partition, None)
                self._delivering.discard(partition.partition)
            case do.Resume(partition, seek_to):
                if seek_to is not None:
                    self._positions[partition.partition] = seek_to
                self._delivering.add(partition.partition)
                self._clock.later(0.0, lambda: self.deliver(partition.partition))
            case do.Pause(partition):
                self._delivering.discard(partition.partition)
            case do.Leave(job) | do.Forget(job):
                self._device.drop(_job_id(job))
                self._jobs.pop(_job_id(job), None)
            case do.Stop():
                self._leave()

    def _tell_device(self, effect: do.Admit | do.SetCap) -> None:
        match effect:
            case do.Admit(rows):
                self._device.admit([RowId(_job_id(row.job), row.image) for row in rows])
            case do.SetCap(batch_key, rows_max):
                assert isinstance(batch_key, BatchKey)
                self._device.set_cap(batch_key, rows_max)

    def _looked_up(self, job: JobKey) -> None:
        self._handle(on.OutcomeFound(job) if self._topic.is_decided(job) else on.OutcomeAbsent(job))

    def _settled(self, job: JobKey) -> None:
        self._topic.decide(job)
        self._handle(on.Settled(job))

    def _open(self, partition: PartitionKey, epoch: int) -> None:
        if self._left or self._opening.get(partition.partition) != epoch:
            return
        token, base, metadata = self._topic.open(partition.partition)
        self._held[partition.partition] = Held(epoch, token)
        commit = decode_commit(partition, base, metadata)
        fates = self._topic.fates(commit.journal.boots)
        self._handle(on.PartitionOpened(partition, epoch, commit, fates=fates))

    def _publish(self, effect: do.Publish) -> None:
        held = self._held.get(effect.partition.partition)
        if self._left or held is None or held.epoch != effect.epoch:
            return
        place, offset = effect.partition.partition, (effect.offset, effect.metadata)
        committed = self._topic.commit(place, held.token, offset, effect.jobs, now=self._clock.now())
        if committed:
            self._handle(on.Published(effect.partition, effect.epoch))
        else:
            self._handle(on.PublishFailed(effect.partition, effect.epoch, fenced=True))

    def _leave(self) -> None:
        self._left = True
        self._delivering.clear()
        self._held.clear()
        self._device.close()
        self._topic.left(self._boot)
        self._on_left(self)


def _job_id(job: JobKey) -> str:
    return f"{job.partition}-{job.offset}"
