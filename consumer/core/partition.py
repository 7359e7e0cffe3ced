"""The partitions this worker holds: opened, published and given up, each under an epoch.

    (assigned) --> OPENING --opened--> OPEN --publication failed--> OPENING (a new epoch)
                    ^   |
                    +---+ failed: the same epoch, after a wait

From either it is gone when a rebalance gives it to somebody else; one that a rebalance leaves here stays as it is.

An epoch is a number that no partition of this worker ever had before. It names one opening, so that the
answer to an earlier one, or to a publication made under it, changes nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from darkroom.consumer.core.jobs import IN_THE_LANES, TRANSITIONS, Identity, JobFacts, JobState
from darkroom.consumer.core.journal import UNNAMED_BOOT, Boot, Entry, Fate, Journal, lonely_crashes, suspects_of
from darkroom.consumer.core.ledger import CommitPlan, Ledger
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.offset_map import (
    METADATA_CHARS_MAX,
    METADATA_CHARS_MIN,
    Commit,
    fitting,
    window_offsets,
)
from darkroom.consumer.core.partition_key import JobKey, PartitionKey
from darkroom.consumer.core.snapshot import PartitionSnapshot


@dataclass(slots=True, eq=False)
class Job:
    """A record with its state. Owned by the core; changed by nobody else."""

    facts: JobFacts
    partition: Partition
    state: JobState = JobState.WAITING
    waits: bool = False
    """Whether the waiting room counts it."""
    batch_key: Hashable = None
    ready_at: float = 0.0
    rows_ready: set[int] = field(default_factory=set)
    """Indexes that are prepared and wait to join the device."""
    rows_on_device: set[int] = field(default_factory=set)
    failures: int = 0
    """Faults suffered that may be the job's own."""
    cleared: bool = False
    """Whether it is in the committed journal and waits only for a place."""
    suspicion: Entry | None = None
    """Set where it was in the lanes of a boot that may have crashed: then it runs alone."""
    rendered_bytes: int = 0
    over: bool = False
    """Whether the core has forgotten it."""

    @property
    def key(self) -> JobKey:
        """Where the record stands."""
        return self.facts.key

    @property
    def identity(self) -> Identity:
        """Return the tenant and request id of the outcome. Only for a record whose request id could be read."""
        assert self.facts.identity is not None
        return self.facts.identity

    def to(self, state: JobState) -> None:
        """Move on. Raises `AssertionError` for a move that is not in the table: a bug, never an input."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"job {self.key} cannot go from {self.state.value} to {state.value}")
        self.state = state


@dataclass(slots=True)
class Publication:
    """The one transaction of a partition that is under way."""

    plan: CommitPlan
    jobs: tuple[JobKey, ...]


@dataclass(slots=True)
class Partition:
    """One assigned partition. Owned by the core; changed by nobody else."""

    key: PartitionKey
    boot: Boot = UNNAMED_BOOT
    """This run of this process, as the journal names it."""
    epoch: int = 0
    assigned: bool = True
    """False from a rebalance's beginning to its end. Publishing goes on: the writer's own fence guards it."""
    is_open: bool = False
    ledger: Ledger | None = None
    """From the first opening on; while reopening, the account as it stood before."""
    jobs: dict[JobKey, Job] = field(default_factory=dict)
    decided: list[JobKey] = field(default_factory=list)
    """Jobs whose outcome is decided and not published, oldest decision first."""
    journaled: Mapping[int, Entry] = field(default_factory=dict)
    """The journal as this boot committed it last."""
    trials: frozenset[int] = frozenset()
    """Those of them that it calls alone."""
    journal_is_due: bool = False
    """A job waits for the journal to be committed with it."""
    journal_is_full: bool = False
    """The last journal had no room for something that is in the lanes: it is written with the next outcome."""
    metadata_chars_max: int = METADATA_CHARS_MAX
    """The most that a commit's metadata may have here; halved when the broker refuses it."""
    suspects: dict[int, Entry] = field(default_factory=dict)
    """By offset: what was in the lanes of a boot that may have crashed, and has no outcome yet."""
    publication: Publication | None = None
    commit_at: float | None = None
    """When the position is to be committed although no job is decided."""
    paused: bool = True
    failures: int = 0
    """Openings and publications that failed in a row."""
    reopen_at: float | None = None
    """When to try to open again after a failure."""
    prove_ownership: bool = False
    fates: Mapping[Boot, Fate] = field(default_factory=dict)

    @property
    def account(self) -> Ledger:
        """The ledger of a partition that was opened at least once."""
        assert self.ledger is not None
        return self.ledger

    @property
    def wake_at(self) -> float | None:
        """When something of this partition is due by time alone."""
        if not self.is_open:
            return self.reopen_at
        return self.commit_at if self.publication is None else None

    @property
    def may_be_due(self) -> bool:
        """Return whether there can be anything to open, to publish or to wait for: mostly there is not."""
        if not self.is_open:
            return self.reopen_at is not None
        return bool(self.decided) or self.journal_is_due or self.commit_at is not None or self.account.is_ahead_idly

    def snapshot(self) -> PartitionSnapshot:
        """Return the partition as others may see it."""
        ledger = self.ledger
        if ledger is None:
            return PartitionSnapshot(self.key, self.is_open)
        return PartitionSnapshot(self.key, self.is_open, ledger.base, ledger.position, ledger.unfinished)

    def jobs_not_in(self, states: tuple[JobState, ...]) -> list[Job]:
        """Its jobs in other states than these."""
        return [job for job in self.jobs.values() if job.state not in states]

    def drop(self, job: Job) -> None:
        """A job is over here."""
        del self.jobs[job.key]
        if job.state is JobState.DECIDED:
            self.decided.remove(job.key)
        if job.state is JobState.PUBLISHING:
            self.suspects.pop(job.key.offset, None)

    def open(self, commit: Commit, limits: Limits, fates: Mapping[Boot, Fate]) -> list[Job]:
        """Take over what stands committed. Return the jobs that are over or to be received again."""
        window = min(limits.offset_window, window_offsets(self.metadata_chars_max))
        previous, ledger = self.ledger, Ledger(self.key, commit, window)
        kept = previous is not None and ledger.adopt(previous)
        gone = [job for key, job in self.jobs.items() if not kept or ledger.is_finished(key.offset)]
        journal = commit.journal
        self._journal_stands(journal.entries if journal.boot == self.boot else {})
        self.suspects = (self.suspects if kept else {}) | suspects_of(journal, fates)
        tried = {boot for entry in self.suspects.values() for boot in entry.trials}
        self.fates = {boot: fate for boot, fate in {**self.fates, **fates}.items() if boot in tried}
        # What another boot left is written anew at once: if it crashes later, these records were not with it.
        left_by_another = bool(journal.entries) and journal.boot != self.boot
        self.journal_is_due = left_by_another or any(job.state is JobState.JOURNALING for job in self.jobs.values())
        self.ledger = ledger
        self.journal_is_full = False
        self.is_open = True
        return gone

    def crashes(self, entry: Entry) -> int:
        """Return the number of lonely crashes that count against a suspect."""
        return lonely_crashes(entry, self.fates)

    def close(self, epoch: int, *, prove_ownership: bool) -> None:
        """Not open until it is opened under this new epoch. The publication's fate is for the map to tell."""
        if self.publication is not None:
            self.decided[:0] = [key for key in self.publication.jobs if key in self.jobs]
        self.publication = None
        self.epoch = epoch
        self.is_open = False
        self.paused = True
        self.commit_at = None
        self.reopen_at = None
        self.prove_ownership = prove_ownership

    def next_publication(self, limits: Limits, now: float) -> Publication | None:
        """The transaction to begin now, if there is one. It is the partition's only one until it is answered."""
        if not self.is_open or self.publication is not None:
            return None
        # One that started under a wider window waits until the map can hold it.
        jobs = tuple(
            islice((key for key in self.decided if self.account.may_start(key.offset)), limits.publish_jobs_max)
        )
        if not jobs and not self.journal_is_due and not self._position_is_due(limits, now):
            return None
        finishing = frozenset(key.offset for key in jobs)
        journal = self._journal(self.boot, finishing)
        self.journal_is_due = False
        plan = self.account.plan(finishing, journal, self.metadata_chars_max)
        self.decided = [key for key in self.decided if key not in jobs]
        self.commit_at = None
        self.publication = Publication(plan, jobs)
        return self.publication

    def published(self) -> tuple[JobKey, ...]:
        """The transaction was committed: its jobs are over."""
        assert self.publication is not None
        jobs = self.publication.jobs
        self.account.apply(self.publication.plan)
        self._journal_stands(self.publication.plan.journal.entries)
        self.publication = None
        self.failures = 0
        return jobs

    def metadata_was_refused(self) -> None:
        """Ask for half the room from now on: the broker's `offset.metadata.max.bytes` is smaller than Kafka's own."""
        self.metadata_chars_max = max(METADATA_CHARS_MIN, self.metadata_chars_max // 2)

    def is_journaled(self, job: Job) -> bool:
        """Return whether the committed journal is right about the job: that it is in the lanes, and whether alone."""
        if not self.is_open:
            return False  # what was being committed is not known until the partition is open again
        if self.publication is not None and not self.is_journaling(job):
            return False  # what is being committed takes it out again
        return self.journaled.get(job.key.offset) == _entry_of(job)

    def is_journaling(self, job: Job) -> bool:
        """Return whether the transaction under way has the job in its journal."""
        under_way = self.publication
        return under_way is not None and under_way.plan.journal.entries.get(job.key.offset) == _entry_of(job)

    def _journal_stands(self, entries: Mapping[int, Entry]) -> None:
        self.journaled = entries
        self.trials = frozenset(offset for offset, entry in entries.items() if entry.alone)

    def trials_beside(self, key: JobKey) -> bool:
        """Return whether the committed journal calls another record than this one alone."""
        return any((*self.key, offset) != key for offset in self.trials)

    def _in_the_lanes(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state in IN_THE_LANES]

    def _journal(self, boot: Boot, finishing: frozenset[int]) -> Journal:
        """What is in the lanes, and the suspects whose turn has not come; the lowest offsets where it is too much."""
        entries = {offset: entry for offset, entry in self.suspects.items() if self.account.may_come(offset)}
        entries |= {job.key.offset: _entry_of(job) for job in self._in_the_lanes()}
        whole = Journal(boot, {offset: entry for offset, entry in entries.items() if offset not in finishing})
        kept = fitting(whole, self.metadata_chars_max)
        self.journal_is_full = len(kept.entries) < len(whole.entries)
        return kept

    def _position_is_due(self, limits: Limits, now: float) -> bool:
        """Whether the position is to be committed by itself: nothing is unfinished, and it stood still a while."""
        if self.account.unfinished:
            self.commit_at = None
            return False
        if self.commit_at is None and self.account.is_ahead_idly:
            self.commit_at = now + limits.idle_commit_s
        return self.commit_at is not None and now >= self.commit_at


def _entry_of(job: Job) -> Entry:
    return Entry() if job.suspicion is None else replace(job.suspicion, alone=True)
