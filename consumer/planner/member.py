"""One virtual worker: the real core, a device that takes what a profile says, and a consumer in the group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.journal import Boot
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.offset_map import decode_commit
from darkroom.consumer.core.partition_key import JobKey, PartitionKey, RowKey
from darkroom.consumer.planner.simulate import Delays
from darkroom.consumer.planner.topic import TOPIC, Topic
from darkroom.consumer.planner.virtual import Alarm, DeviceListener, VirtualClock, VirtualDevice
from darkroom.inference.contract import BatchKey, RowId
from darkroom.inference.planning.profile import DeviceProfile

PICTURE_BYTES = 1_500_000
"""A PNG of a megapixel; only `Limits.unsettled_bytes_max` looks at it."""


@dataclass(slots=True)
class Held:
    """A partition in a member's hands."""

    epoch: int
    token: int
    """The writer's, as of its last opening."""


class Member:
    """Joins, renders, drains and leaves. Everything it is told comes at the clock's time."""

    def __init__(
        self,
        name: str,
        topic: Topic,
        clock: VirtualClock,
        *,
        profile: DeviceProfile,
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
        listener = DeviceListener(self._prepared, self._boundary, self._rendered)
        self.device = VirtualDevice(
            profile, clock, listener, rows_max=limits.batch_rows_max, prepare_s=delays.prepare_s
        )
        self._delivering: set[int] = set()
        self._held: dict[int, Held] = {}
        self._jobs: dict[str, JobKey] = {}
        """Jobs on the device's side, by the names that they have there."""
        self._alarm = Alarm(self._clock, lambda: self._handle(on.Tick()))
        self._left = False

    @property
    def rows_held(self) -> int:
        """Rows that are begun or waiting here: 0 is an idle worker."""
        return self._core.flow.rows_to_join + self._core.flow.batcher.rows_on_device

    # --- The group -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """The model is loaded."""
        self._topic.joined(self._boot)
        self._handle(on.Started())

    def revoked(self) -> None:
        """A rebalance began: nothing is delivered until it ends."""
        self._delivering.clear()
        self._handle(on.PartitionsRevoked(frozenset(self._core.partitions)))

    def assigned(self, partitions: frozenset[int]) -> None:
        """It ended."""
        self._handle(on.PartitionsAssigned(frozenset(PartitionKey(TOPIC, one) for one in partitions)))

    def drain(self) -> None:
        """SIGTERM: finish what is on the device and leave."""
        self._handle(on.DrainRequested())

    def deliver(self, partition: int) -> None:
        """Hand over what the partition has and the core has not, as far as the core takes it."""
        if partition not in self._delivering:
            return
        held = self._core.partitions[PartitionKey(TOPIC, partition)]
        log = self._topic.log(partition)
        while partition in self._delivering and held.account.position < len(log):
            self._handle(on.RecordArrived(log[held.account.position], held.epoch))

    # --- The device ----------------------------------------------------------------------------------------

    def _prepared(self, job_id: str, key: BatchKey, cap: int) -> None:
        self._handle(on.CapKnown(key, cap))
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
        delays, topic = self._delays, self._topic
        match effect:
            case do.LookUp(job):
                # Read when the answer comes: as the store does.
                self._clock.later(delays.look_up_s, lambda: self._looked_up(job))
            case do.Prepare(job):
                arrival = topic.arrivals[topic.number(job)]
                self._jobs[_job_id(job)] = job
                self.device.prepare(_job_id(job), arrival.request, arrival.batch_key)
            case do.Admit(rows):
                self.device.admit([RowId(_job_id(row.job), row.image) for row in rows])
            case do.Settle(job):
                self._clock.later(delays.settle_s, lambda: self._settled(job))
            case do.Publish():
                self._clock.later(delays.commit_s, lambda: self._publish(effect))
            case do.OpenPartition(partition, epoch):
                self._clock.later(self._open_s, lambda: self._open(partition, epoch))
            case do.ClosePartition(partition):
                self._held.pop(partition.partition, None)
                self._delivering.discard(partition.partition)
            case do.Resume(partition):
                self._delivering.add(partition.partition)
                self._clock.later(0.0, lambda: self.deliver(partition.partition))
            case do.Pause(partition):
                self._delivering.discard(partition.partition)
            case do.Leave(job) | do.Forget(job):
                self.device.drop(_job_id(job))
                self._jobs.pop(_job_id(job), None)
            case do.Stop():
                self._leave()

    def _looked_up(self, job: JobKey) -> None:
        self._handle(on.OutcomeFound(job) if self._topic.is_decided(job) else on.OutcomeAbsent(job))

    def _settled(self, job: JobKey) -> None:
        self._topic.decide(job)
        self._handle(on.Settled(job))

    def _open(self, partition: PartitionKey, epoch: int) -> None:
        current = self._core.partitions.get(partition)
        if self._left or current is None or current.epoch != epoch:
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
        self.device.close()
        self._topic.left(self._boot)
        self._on_left(self)


def _job_id(job: JobKey) -> str:
    return f"{job.partition}-{job.offset}"
