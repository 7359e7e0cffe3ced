"""The worker's decisions: one event in, the effects that follow from it out.

This module keeps the worker's life and its partitions; `jobflow` keeps the jobs in them. Invariants, each with
a test of its name:

- `one_publication_per_partition`: a partition's offset is committed by one transaction at a time.
- `stale_epochs_change_nothing`: answers to an earlier opening are ignored.
- `publication_waits_for_opening`: nothing is published from a partition that is not open.
- `paused_partitions_resume`: a partition that was paused for a bound is resumed once the bound is kept again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.backpressure import Backpressure, Flow
from darkroom.consumer.core.jobflow import JobFlow
from darkroom.consumer.core.jobs import JobState
from darkroom.consumer.core.journal import UNNAMED_BOOT, Boot
from darkroom.consumer.core.lifecycle import Phase, Signal, after
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition import Partition
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.core.snapshot import Snapshot

_FINISHED_IN_A_DRAIN = (
    JobState.ON_DEVICE,
    JobState.FINISHING,
    JobState.SETTLING,
    JobState.DECIDED,
    JobState.PUBLISHING,
)


class Core:
    """All of a worker's state that decides anything. Synchronous, single-threaded, and without a clock."""

    def __init__(self, limits: Limits | None = None, *, boot: Boot = UNNAMED_BOOT, jitter: float = 0.5) -> None:
        """`boot` names this run of the process in the journal; `jitter` is that of `Limits.backoff_s`."""
        self.limits = limits or Limits()
        self._boot = boot
        self._jitter = jitter
        self.phase = Phase.STARTING
        self.partitions: dict[PartitionKey, Partition] = {}
        self._out: list[do.Effect] = []
        self.flow = JobFlow(self.limits, self.partitions, self._out, jitter=jitter)
        self._backpressure = Backpressure(self.limits)
        self._epochs = count(1)
        self._drain_until: float | None = None
        self._partitions_wake_at: float | None = None
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            on.Started: self._on_started,
            on.PartitionsRevoked: self._on_revoked,
            on.PartitionsAssigned: self._on_assigned,
            on.PartitionOpened: self._on_opened,
            on.OpenFailed: self._on_open_failed,
            on.RecordArrived: self._on_record,
            on.PositionAdvanced: self._on_position,
            on.Published: self._on_published,
            on.PublishFailed: self._on_publish_failed,
            on.Tick: self._on_tick,
            on.DrainRequested: self._on_drain,
            on.OutcomeFound: self.flow.on_outcome_found,
            on.OutcomeAbsent: self.flow.on_outcome_absent,
            on.StoreFailed: self.flow.on_store_failed,
            on.Settled: self.flow.on_settled,
            on.CancellationArrived: self.flow.on_cancellation,
            on.PicturesFetched: self.flow.on_pictures_fetched,
            on.CapKnown: self.flow.on_cap_known,
            on.Prepared: self.flow.on_prepared,
            on.JobFaulted: self.flow.on_job_faulted,
            on.StepBoundary: self.flow.on_step_boundary,
            on.StepFaulted: self.flow.on_step_faulted,
            on.Rendered: self.flow.on_rendered,
        }

    def handle(self, event: on.Event, now: float) -> tuple[do.Effect, ...]:
        """Take one event at a time `now` that never falls, and return what to do, in order."""
        self._handlers[type(event)](event, now)
        self.flow.overdue(now)
        self.flow.probe(now)
        if self.phase is Phase.RUNNING:
            self.flow.start(now)
            self.flow.prepare()
        self.flow.admit(now)
        self.flow.journal(now)
        self._publish(now)
        self._control_flow()
        self._finish_drain(now)
        effects = tuple(self._out)
        self._out.clear()
        return effects

    @property
    def rows_to_join(self) -> int:
        """Return the rows that are to join the device and were not handed to it. Safe to call from any thread."""
        return self.flow.rows_to_join

    def snapshot(self) -> Snapshot:
        """Return the state that others may see. Safe to call from any thread."""
        flow = self.flow
        return Snapshot(
            phase=self.phase,
            store_is_away=flow.breaker.is_open,
            partitions=tuple(one.snapshot() for one in list(self.partitions.values())),
            rows_waiting=flow.rows_to_join + flow.rows_in[JobState.FOLLOWING],
            rows_on_device=flow.batcher.rows_on_device,
            unsettled_bytes=flow.unsettled_bytes,
            jobs_to_render=flow.jobs_to_render(),
        )

    def wake_at(self) -> float | None:
        """When a `Tick` is due if nothing else happens before. None: never."""
        if self.phase is Phase.CLOSED:
            return None
        times = [
            self.flow.batcher.wake_at,
            self.flow.breaker.wake_at,
            self.flow.deadlines.wake_at,
            self._drain_until,
            self._partitions_wake_at,
        ]
        return min((time for time in times if time is not None), default=None)

    # --- The worker's life -------------------------------------------------------------------------------

    def _on_started(self, _event: on.Started, _now: float) -> None:
        self.phase = after(self.phase, Signal.STARTED)

    def _on_tick(self, _event: on.Tick, _now: float) -> None:
        """Nothing but time: `handle` does what is due."""

    def _on_drain(self, _event: on.DrainRequested, now: float) -> None:
        if self.phase is Phase.DRAINING:
            return
        self._drain_until = now + self.limits.drain_s
        self.phase = after(self.phase, Signal.DRAIN)
        for partition in self.partitions.values():
            partition.paused = True
            self._out.append(do.Pause(partition.key))
            for job in partition.jobs_not_in(_FINISHED_IN_A_DRAIN):
                self.flow.forget(job)

    def _finish_drain(self, now: float) -> None:
        if self._drain_until is None:
            return
        idle = not any(self.flow.rows_in[state] for state in _FINISHED_IN_A_DRAIN)
        idle = idle and not any(partition.publication for partition in self.partitions.values())
        if idle or now >= self._drain_until:
            self.phase = after(self.phase, Signal.DONE)
            self._drain_until = None
            self._out.append(do.Stop(clean=idle))

    # --- Partitions --------------------------------------------------------------------------------------

    def _on_revoked(self, event: on.PartitionsRevoked, _now: float) -> None:
        for key in event.partitions & self.partitions.keys():
            self.partitions[key].assigned = False

    def _on_assigned(self, event: on.PartitionsAssigned, _now: float) -> None:
        self.flow.room.changed = True  # each partition's share of it does, with their number
        for key in self.partitions.keys() - event.partitions:
            for job in self.partitions[key].jobs_not_in(()):
                self.flow.forget(job)
            del self.partitions[key]
            self._out.append(do.ClosePartition(key))
        for key in sorted(event.partitions):
            if key not in self.partitions:
                self.partitions[key] = Partition(key, self._boot)
                self._reopen(self.partitions[key], prove_ownership=False)
            self._deliver_again(self.partitions[key])

    def _deliver_again(self, partition: Partition) -> None:
        """A rebalance reset the consumer. A partition that stays open goes on where it was: had anybody else opened it,
        its writer would be fenced, and the next publication would find out.
        """
        partition.assigned = True
        if partition.is_open and self.phase is Phase.RUNNING:
            self._deliver_from_position(partition)

    def _deliver_from_position(self, partition: Partition) -> None:
        self._out.append(do.Resume(partition.key, seek_to=partition.account.position))
        if partition.paused:
            self._out.append(do.Pause(partition.key))

    def _reopen(self, partition: Partition, *, prove_ownership: bool, at: float | None = None) -> None:
        """Open under a new epoch, now or at a later time."""
        for job in partition.jobs.values():
            if job.state is JobState.PUBLISHING:
                self.flow.move(job, JobState.DECIDED)
        partition.close(next(self._epochs), prove_ownership=prove_ownership)
        if at is None:
            self._out.append(do.OpenPartition(partition.key, partition.epoch, prove_ownership))
        else:
            partition.reopen_at = at

    def _on_opened(self, event: on.PartitionOpened, now: float) -> None:
        partition = self._current(event.partition, event.epoch)
        if partition is None or partition.is_open:
            return
        for job in partition.open(event.commit, self.limits, event.fates):
            self.flow.forget(job)
        if event.fresh:
            partition.commit_at = now
        self.flow.clear(partition)
        self.flow.room.unpark(partition)
        if self.phase is Phase.RUNNING:
            partition.paused = False
            self._out.append(do.Resume(partition.key, seek_to=partition.account.position))

    def _on_open_failed(self, event: on.OpenFailed, now: float) -> None:
        partition = self._current(event.partition, event.epoch)
        if partition is not None and not partition.is_open:
            partition.failures += 1
            partition.reopen_at = now + self.limits.backoff_s(partition.failures, self._jitter)

    def _on_record(self, event: on.RecordArrived, _now: float) -> None:
        partition = self._delivering(event.facts.key.partition_key, event.epoch)
        if partition is not None and partition.account.receive(event.facts.key.offset):
            self._out.append(do.Keep(event.facts.key))
            self.flow.arrive(event.facts, partition)

    def _on_position(self, event: on.PositionAdvanced, _now: float) -> None:
        partition = self.partitions.get(event.partition)
        if partition is None or not partition.is_open or self.phase is not Phase.RUNNING:
            return
        if event.epoch != partition.epoch:
            # Fetched before the partition was opened, or while it was: the consumer has passed what it must deliver.
            self._deliver_from_position(partition)
            return
        if event.position < partition.account.base:
            # The consumer had to go back behind what is committed: the topic was made anew, or its end was lost.
            self._out.append(do.Pause(partition.key))
            self._reopen(partition, prove_ownership=False)
            return
        partition.account.advance(event.position)

    def _publish(self, now: float) -> None:
        """See to what is due in each partition. Nothing is in most of them, so those cost a look and no call."""
        times = []
        for partition in self.partitions.values():
            if partition.may_be_due:
                self._publish_from(partition, now)
                if (wake_at := partition.wake_at) is not None:
                    times.append(wake_at)
        self._partitions_wake_at = min(times, default=None)

    def _publish_from(self, partition: Partition, now: float) -> None:
        if partition.reopen_at is not None and now >= partition.reopen_at:
            partition.reopen_at = None
            self._out.append(do.OpenPartition(partition.key, partition.epoch, partition.prove_ownership))
        publication = partition.next_publication(self.limits, now)
        if publication is None:
            return
        for key in publication.jobs:
            self.flow.move(partition.jobs[key], JobState.PUBLISHING)
        plan = publication.plan
        self._out.append(do.Publish(partition.key, partition.epoch, publication.jobs, plan.offset, plan.metadata))

    def _on_published(self, event: on.Published, _now: float) -> None:
        partition = self._current(event.partition, event.epoch)
        if partition is None or partition.publication is None:
            return
        for key in partition.published():
            self.flow.forget(partition.jobs[key])
        self.flow.clear(partition)
        self.flow.room.unpark(partition)

    def _on_publish_failed(self, event: on.PublishFailed, now: float) -> None:
        """The transaction's fate is not known: open again, and let the map say what is unfinished."""
        partition = self._current(event.partition, event.epoch)
        if partition is None or not partition.is_open:
            return
        partition.failures += 1
        if event.refusal is on.Refusal.METADATA:
            partition.metadata_was_refused()
        self._out.append(do.Pause(partition.key))
        wait = self.limits.backoff_s(partition.failures, self._jitter) if partition.failures > 1 else None
        self._reopen(partition, prove_ownership=event.fenced, at=None if wait is None else now + wait)

    def _control_flow(self) -> None:
        if self.phase is not Phase.RUNNING or not self.flow.room.changed:
            return
        self.flow.room.changed = False
        for key, flow in self._backpressure.changes(self.partitions, self.flow.room):
            self._out.append(do.Pause(key) if flow is Flow.PAUSE else do.Resume(key))

    def _current(self, key: PartitionKey, epoch: int) -> Partition | None:
        partition = self.partitions.get(key)
        return partition if partition is not None and partition.epoch == epoch else None

    def _delivering(self, key: PartitionKey, epoch: int) -> Partition | None:
        partition = self._current(key, epoch)
        return partition if partition is not None and partition.is_open and self.phase is Phase.RUNNING else None
