"""Jobs from arrival to decision: what is looked up, prepared, put on the device, and settled, and when.

Invariants, each with a test of its name:

- `outcome_before_publication`: a job is decided only by `Settled`, by `OutcomeFound`, or for want of an identity.
- `one_render_per_identity`: two records of one request are never rendered at once.
- `bounds_hold`: rows on the device, rows ahead of it and unsettled pictures stay within `Limits`.
- `the_store_s_absence_fails_nobody`: no verdict follows from `StoreFailed`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from itertools import count

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.batcher import Batcher, Waiting
from darkroom.consumer.core.breaker import Breaker
from darkroom.consumer.core.deadlines import Deadlines
from darkroom.consumer.core.identities import Identities
from darkroom.consumer.core.jobs import OPEN_TO_INTERRUPTION, JobFacts, JobState, Verdict, VerdictKind
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.pace import Pace
from darkroom.consumer.core.partition import Job, Partition
from darkroom.consumer.core.partition_key import JobKey, PartitionKey
from darkroom.consumer.core.retry import FailRow, RunApart, SmallerBatch, remedy_for
from darkroom.consumer.core.waiting import TURN_S, WaitingRoom

_COMPANY = (
    JobState.LOOKING,
    JobState.JOURNALING,
    JobState.PREPARING,
    JobState.READY,
    JobState.ON_DEVICE,
    JobState.FINISHING,
    JobState.SETTLING,
)
"""While a job is in one of these, no suspect is alone."""
_BEFORE_THE_DEVICE = (
    JobState.WAITING,
    JobState.LOOKING,
    JobState.JOURNALING,
    JobState.PREPARING,
    JobState.READY,
)
JOURNAL_COVER_S = 0.25
"""While what the journals name lasts so long, no journal is committed for its own sake: some commits' time."""
_EXPIRED = Verdict(VerdictKind.EXPIRED, "deadline_passed", "The deadline passed before the pictures were finished.")
_CANCELLED = Verdict(VerdictKind.CANCELLED, "cancelled", "The request was cancelled by its requester.")


class JobFlow:
    """The part of the core that moves jobs. Appends its effects to the list it was given."""

    def __init__(
        self, limits: Limits, partitions: Mapping[PartitionKey, Partition], out: list[do.Effect], *, jitter: float
    ) -> None:
        self.limits = limits
        self._partitions = partitions
        self.room = WaitingRoom(limits)
        self.batcher = Batcher(limits, self.room.urgency)
        self.breaker: Breaker[do.StoreCall] = Breaker(limits, jitter)
        self.deadlines = Deadlines()
        self.identities = Identities(limits.cancellations_max)
        self.rows_in = dict.fromkeys(JobState, 0)
        """Rows by the state of their job."""
        self._device_us_in = dict.fromkeys(JobState, 0)
        """Microseconds of the device, likewise."""
        self.unsettled_bytes = 0
        self.suspects: set[JobKey] = set()
        """Jobs that are to run alone and are not decided."""
        self._pace = Pace()
        self._cleared: list[tuple[float, int, Job]] = []
        self._unjournaled: list[Job] = []
        """Jobs in JOURNALING that no committed journal names; some that no longer are."""
        self._sequence = count()
        self._jobs: dict[JobKey, Job] = {}
        self._out = out

    def job(self, key: JobKey) -> Job | None:
        """The job of a record that is not over."""
        return self._jobs.get(key)

    def jobs_to_render(self) -> frozenset[JobKey]:
        """Return the jobs that still need the device."""
        return frozenset(key for key, job in list(self._jobs.items()) if job.state in _TO_RENDER)

    @property
    def rows_begun(self) -> int:
        """Rows that are looked up or wait for the journal."""
        return self.rows_in[JobState.LOOKING] + self.rows_in[JobState.JOURNALING]

    @property
    def rows_ahead(self) -> int:
        """Rows between the journal and the device."""
        return self.rows_in[JobState.PREPARING] + self.rows_in[JobState.READY]

    @property
    def rows_to_join(self) -> int:
        """Rows that are to join the device and were not handed to it yet."""
        return self.room.rows_total + self.rows_begun + self.rows_ahead

    @property
    def waiting(self) -> Waiting:
        """The work that is to join the device and was not handed to it yet."""
        device_us = sum(self._device_us_in[state] for state in _BEFORE_THE_DEVICE)
        coming = self.rows_begun + self.rows_in[JobState.PREPARING] > 0
        return Waiting(self.rows_to_join, device_us / 1e6, coming)

    # --- In and out --------------------------------------------------------------------------------------

    def arrive(self, facts: JobFacts, partition: Partition) -> None:
        """A record that is new work."""
        job = Job(facts, partition, suspicion=partition.suspects.get(facts.key.offset))
        self._jobs[job.key] = partition.jobs[job.key] = job
        self._count(job, +1)
        if facts.identity is None:
            self._decide(job)
            return
        if job.suspicion is not None:
            self.suspects.add(job.key)
        self.room.add(job, urgent=facts.refusal is not None or job.suspicion is not None)
        if facts.deadline is not None:
            self.deadlines.add(facts.deadline, job)

    def forget(self, job: Job) -> None:
        """The job is over here."""
        if job.waits:
            self.room.discard(job)
        if job.state is JobState.FOLLOWING:
            self.identities.stop_following(job)
        self.batcher.remove(job)
        self.breaker.abandon(lambda call: call.job == job.key)
        self._free_pictures(job)
        self._count(job, -1)
        job.over = True
        self.suspects.discard(job.key)
        job.partition.drop(job)
        del self._jobs[job.key]
        self._release_followers(job)
        self._out.append(do.Forget(job.key))

    def move(self, job: Job, state: JobState) -> None:
        """Change a job's state and the counts that follow from it."""
        self._count(job, -1)
        job.to(state)
        self._count(job, +1)

    def _count(self, job: Job, sign: int) -> None:
        self.rows_in[job.state] += sign * job.facts.rows
        self._device_us_in[job.state] += sign * job.facts.device_us

    # --- What may follow from any event -------------------------------------------------------------------

    def overdue(self, now: float) -> None:
        """End what passed its deadline on or before the device; let what still waits be looked up first."""
        for job in self.deadlines.due(now):
            if job.state in OPEN_TO_INTERRUPTION:
                self._interrupt(job, _EXPIRED)
            elif job.waits:
                self.room.expedite(job)

    def probe(self, now: float) -> None:
        """Try the store again, if it is time."""
        self._out += self.breaker.probe(now)

    def start(self, now: float) -> None:
        """Take jobs from the waiting room as far as there are places ahead; a suspect only when it is alone."""
        bounds = {"rows_min": self.limits.batch_rows_max, "rows_max": self.limits.begin_ahead_rows_max}
        begin_max = self._pace.rows_to_begin(now, **bounds)
        while not self.breaker.is_open and self.rows_begun < begin_max:
            if self.suspects and any(self.rows_in[state] for state in _COMPANY):
                return
            job = self.room.pop()
            if job is None:
                return
            if self.identities.lead_or_follow(job):
                self._look_up(job)
            else:
                self.move(job, JobState.FOLLOWING)

    def clear(self, partition: Partition) -> None:
        """The partition's journal was committed: what it names may be prepared."""
        for job in self._still_unjournaled():
            if job.partition is partition and partition.is_journaled(job):
                self._clear(job)

    def journal(self, now: float) -> None:
        """Ask for journals to be committed for their own sake, where the lanes would run dry without.

        Every transaction of a partition carries its journal, so under a backlog most records are named by one that
        publishes an outcome. Who goes before all that is named already, by more than a turn, does not wait for that.
        """
        waiting = self._unjournaled = self._still_unjournaled()
        if not waiting:
            return
        named = self.rows_ahead + self.rows_in[JobState.JOURNALING] - sum(job.facts.rows for job in waiting)
        enough = max(self.limits.prepare_ahead_rows_max // 2, self._pace.rows_in(JOURNAL_COVER_S, now))
        named_first = [self._cleared[0][0]] if self._cleared else []
        if (ready := self.batcher.first_ready) is not None:
            named_first.append(self.room.urgency(ready))
        first = min(named_first, default=float("-inf")) - TURN_S
        for job in waiting:
            partition = job.partition
            if named >= enough and job.suspicion is None and self.room.urgency(job) >= first:
                continue
            if not partition.journal_is_full and not partition.is_journaling(job):
                partition.journal_is_due = True

    def _still_unjournaled(self) -> list[Job]:
        return [job for job in self._unjournaled if job.state is JobState.JOURNALING and not (job.cleared or job.over)]

    def prepare(self) -> None:
        """Prepare what may be, the most urgent first, as far as there are places."""
        while self._cleared and self.rows_ahead < self.limits.prepare_ahead_rows_max:
            job = self._cleared[0][2]
            if not self._journals_are_true(job):
                return
            heapq.heappop(self._cleared)
            if job.cleared and not job.over and job.state is JobState.JOURNALING:
                job.cleared = False
                self.move(job, JobState.PREPARING)
                if job.facts.fetches_pictures:
                    self._call_store(do.FetchPictures(job.key))
                else:
                    self._out.append(do.Prepare(job.key))

    def admit(self, now: float) -> None:
        """Put rows on the device, unless finished pictures pile up in front of the store."""
        waiting = self.waiting
        if (changed := self.batcher.follow_backlog(waiting)) is not None:
            self._out.append(do.SetCap(*changed))
        if self.unsettled_bytes >= self.limits.unsettled_bytes_max:
            return
        rows = self.batcher.choose(now, more_is_coming=waiting.more_is_coming)
        for row in rows:
            job = self._jobs[row.job]
            if job.state is JobState.READY:
                self.move(job, JobState.ON_DEVICE)
        if rows:
            self._out.append(do.Admit(rows))

    # --- The store's answers -----------------------------------------------------------------------------

    def on_outcome_found(self, event: on.OutcomeFound, _now: float) -> None:
        """The outcome stands already: the job is decided."""
        self._out += self.breaker.succeeded()
        if job := self._in_state(event.job, JobState.LOOKING):
            self._decide(job)

    def on_outcome_absent(self, event: on.OutcomeAbsent, now: float) -> None:
        """No outcome stands: refuse, cancel, expire or prepare."""
        self._out += self.breaker.succeeded()
        job = self._in_state(event.job, JobState.LOOKING)
        if job is None:
            return
        if job.facts.refusal is not None:
            self._settle(job, job.facts.refusal)
        elif self.identities.is_cancelled(job.identity):
            self._settle(job, _CANCELLED)
        elif job.facts.deadline is not None and job.facts.deadline <= now:
            self._settle(job, _EXPIRED)
        elif (crashes := self._crashes(job)) >= self.limits.attempts_max:
            message = f"{crashes} workers died while this request was rendered alone."
            self._settle(job, Verdict(VerdictKind.FAILED, "worker_crash", message, crashes))
        else:
            self.move(job, JobState.JOURNALING)
            if job.partition.is_journaled(job):
                self._clear(job)
            else:
                self._unjournaled.append(job)

    def on_store_failed(self, event: on.StoreFailed, now: float) -> None:
        """The store is away: hold the call until it is back."""
        call = event.call
        if self._in_state(call.job, _STATE_OF_CALL[type(call)]):
            self.breaker.failed(call, now)

    def on_pictures_fetched(self, event: on.PicturesFetched, _now: float) -> None:
        """Prepare the job: its pose picture is here."""
        self._out += self.breaker.succeeded()
        if self._in_state(event.job, JobState.PREPARING):
            self._out.append(do.Prepare(event.job))

    def on_settled(self, event: on.Settled, _now: float) -> None:
        """The outcome stands now, this worker's or another's: the job is decided."""
        self._out += self.breaker.succeeded()
        if job := self._in_state(event.job, JobState.SETTLING):
            self._free_pictures(job)
            self._decide(job)

    def on_cancellation(self, event: on.CancellationArrived, _now: float) -> None:
        """Remember it for a record that is still to be looked up; end one that is further on."""
        self.identities.cancel(event.identity)
        job = self.identities.leader(event.identity)
        if job is not None and job.state in OPEN_TO_INTERRUPTION:
            self._interrupt(job, _CANCELLED)

    # --- The device's answers ----------------------------------------------------------------------------

    def on_cap_known(self, event: on.CapKnown, _now: float) -> None:
        """Bound the batches of a key from now on."""
        self.batcher.know_cap(event.batch_key, event.rows, event.rows_best)

    def on_prepared(self, event: on.Prepared, now: float) -> None:
        """Let the rows join."""
        job = self._in_state(event.job, JobState.PREPARING)
        if job is not None:
            job.batch_key = event.batch_key
            job.ready_at = now
            job.rows_ready = set(range(job.facts.rows))
            self.move(job, JobState.READY)
            self.batcher.add(job)

    def on_job_faulted(self, event: on.JobFaulted, _now: float) -> None:
        """Fail a job for its own fault at once, and for an unknown one only after some attempts.

        A fault says nothing of the store: where the faulted call was the breaker's probe, another call takes its turn.
        """
        job = self._jobs.get(event.job)
        if job is None or job.state not in _MAY_FAULT:
            return
        self.breaker.abandon(lambda call: call.job == job.key)
        self.batcher.remove(job)  # one picture of several may be finished, and fail, while others are still to run
        job.failures += 1
        if event.party is on.FaultParty.REQUEST or job.failures >= self.limits.attempts_max:
            self._settle(job, Verdict(VerdictKind.FAILED, event.code, event.message))
            return
        self._out.append(do.Leave(job.key))
        self.move(job, JobState.WAITING)
        self.room.add(job, urgent=True)

    def on_step_boundary(self, event: on.StepBoundary, now: float) -> None:
        """Rows retired; a job with none left to run is being finished."""
        self._pace.left(len(event.retired), now)
        for row in event.retired:
            self.batcher.retire(row)
            job = self._in_state(row.job, JobState.ON_DEVICE)
            if job is not None and not job.rows_ready and not job.rows_on_device:
                self.move(job, JobState.FINISHING)

    def on_step_faulted(self, event: on.StepFaulted, now: float) -> None:
        """The rows are ready again; how they run next depends on whose fault it may be."""
        jobs = {row: job for row in event.rows if (job := self._jobs.get(row.job)) and row.image in job.rows_on_device}
        if not jobs:
            return
        for row, job in jobs.items():
            self.batcher.retire(row)
            job.rows_ready.add(row.image)
            self.batcher.add(job)
        first = next(iter(jobs.values()))
        shared_by = len(event.rows) + event.dropped
        if shared_by == 1:
            first.failures += 1
        match remedy_for(event.party, tuple(jobs), first.failures, self.limits.attempts_max, shared_by=shared_by):
            case SmallerBatch(rows_max):
                self.batcher.lower_ceiling(first.batch_key, rows_max, now)
            case RunApart(groups):
                self.batcher.run_apart(groups)
            case FailRow():
                self._interrupt(first, Verdict(VerdictKind.FAILED, event.code, event.message))

    def on_rendered(self, event: on.Rendered, _now: float) -> None:
        """The pictures exist: store them and decide."""
        job = self._in_state(event.job, JobState.FINISHING)
        if job is not None:
            job.rendered_bytes = event.size_bytes
            self.unsettled_bytes += event.size_bytes
            self._settle(job, Verdict(VerdictKind.RENDERED))

    # --- Moves -------------------------------------------------------------------------------------------

    def _look_up(self, job: Job) -> None:
        self.move(job, JobState.LOOKING)
        self._call_store(do.LookUp(job.key))

    def _settle(self, job: Job, verdict: Verdict) -> None:
        self.move(job, JobState.SETTLING)
        self._call_store(do.Settle(job.key, verdict))

    def _interrupt(self, job: Job, verdict: Verdict) -> None:
        self.batcher.remove(job)
        self.breaker.abandon(lambda call: call.job == job.key)
        self._out.append(do.Leave(job.key))
        self._settle(job, verdict)

    def _journals_are_true(self, job: Job) -> bool:
        """Whether no committed journal still calls another job alone: a crash now would be counted against it."""
        stale = [one for one in self._partitions.values() if one.trials_beside(job.key)]
        for partition in stale:
            partition.journal_is_due = True
        return not stale

    def _clear(self, job: Job) -> None:
        job.cleared = True
        heapq.heappush(self._cleared, (self.room.urgency(job), next(self._sequence), job))

    def _crashes(self, job: Job) -> int:
        return 0 if job.suspicion is None else job.partition.crashes(job.suspicion)

    def _decide(self, job: Job) -> None:
        self.move(job, JobState.DECIDED)
        self.suspects.discard(job.key)
        job.partition.decided.append(job.key)
        self._release_followers(job)

    def _release_followers(self, job: Job) -> None:
        """Decided or over: the first of those that followed leads now, and looks up what stands."""
        for follower in self.identities.stop_leading(job):
            self.move(follower, JobState.WAITING)
            self.room.add(follower, urgent=True)

    def _free_pictures(self, job: Job) -> None:
        self.unsettled_bytes -= job.rendered_bytes
        job.rendered_bytes = 0

    def _call_store(self, call: do.StoreCall) -> None:
        self._out += self.breaker.pass_or_hold(call)

    def _in_state(self, key: JobKey, state: JobState) -> Job | None:
        job = self._jobs.get(key)
        return job if job is not None and job.state is state else None


_TO_RENDER = frozenset(
    {
        JobState.WAITING,
        JobState.LOOKING,
        JobState.JOURNALING,
        JobState.PREPARING,
        JobState.READY,
        JobState.ON_DEVICE,
    }
)
"""States whose jobs still need the device. A follower needs its leader's outcome only."""
_MAY_FAULT = (JobState.LOOKING, JobState.PREPARING, JobState.ON_DEVICE, JobState.FINISHING)
"""States in which something is done for one job alone, and may fail for it alone."""
_STATE_OF_CALL = {
    do.LookUp: JobState.LOOKING,
    do.FetchPictures: JobState.PREPARING,
    do.Settle: JobState.SETTLING,
}
