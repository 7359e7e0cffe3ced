"""The partitions this worker holds: opened, published and given up, each under an epoch.

    (assigned) --> OPENING --opened--> OPEN --publication failed--> OPENING (a new epoch)
                      ^  |              |
                      |  +--failed------|--> OPENING (the same epoch, after a wait)
                      +--(reassigned)---+--> gone (lost)

An epoch is a number that no partition of this worker ever had before. It names one opening, so that the
answer to an earlier one, or to a publication made under it, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from consumer.core.jobs import Job, JobState
from consumer.core.ledger import CommitPlan, Ledger
from consumer.core.limits import Limits
from consumer.core.partition_key import JobKey, PartitionKey


@dataclass(slots=True)
class Publication:
    """The one transaction of a partition that is under way."""

    plan: CommitPlan
    jobs: tuple[JobKey, ...]


@dataclass(slots=True)
class Partition:
    """One assigned partition. Owned by the core; changed by nobody else."""

    key: PartitionKey
    epoch: int = 0
    assigned: bool = True
    """False from a rebalance's beginning to its end. Publishing goes on: the writer's own fence guards it."""
    is_open: bool = False
    ledger: Ledger | None = None
    """From the first opening on; while reopening, the account as it stood before."""
    jobs: dict[JobKey, Job] = field(default_factory=dict)
    decided: list[JobKey] = field(default_factory=list)
    """Jobs whose outcome is decided and not published, oldest decision first."""
    publication: Publication | None = None
    commit_at: float | None = None
    """When the position is to be committed although no job is decided."""
    paused: bool = True
    failures: int = 0
    """Openings and publications that failed in a row."""
    reopen_at: float | None = None
    """When to try to open again after a failure."""
    prove_ownership: bool = False
    maps_refused: int = 0
    """Maps that did not verify, so that the partition was replayed from its committed offset."""

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

    def jobs_not_in(self, states: tuple[JobState, ...]) -> list[Job]:
        """Its jobs in other states than these."""
        return [job for job in self.jobs.values() if job.state not in states]

    def drop(self, job: Job) -> None:
        """A job is over here."""
        del self.jobs[job.key]
        if job.state is JobState.DECIDED:
            self.decided.remove(job.key)

    def open(self, base: int, metadata: str, limits: Limits) -> list[Job]:
        """Take the committed offset and its map. Returns the jobs that are over or to be received again."""
        previous, ledger = self.ledger, Ledger(self.key, base, metadata, limits.offset_window)
        kept = previous is not None and ledger.adopt(previous)
        gone = [job for key, job in self.jobs.items() if not kept or ledger.is_finished(key.offset)]
        self.ledger = ledger
        self.maps_refused += not ledger.map_verified
        self.is_open = True
        return gone

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
        jobs = tuple(self.decided[: limits.publish_jobs_max])
        if not jobs and not self._position_is_due(limits, now):
            return None
        plan = self.account.plan(frozenset(key.offset for key in jobs))
        self.decided = self.decided[len(jobs) :]
        self.commit_at = None
        self.publication = Publication(plan, jobs)
        return self.publication

    def published(self) -> tuple[JobKey, ...]:
        """The transaction was committed: its jobs are over."""
        assert self.publication is not None
        jobs = self.publication.jobs
        self.account.apply(self.publication.plan)
        self.publication = None
        self.failures = 0
        return jobs

    def _position_is_due(self, limits: Limits, now: float) -> bool:
        """Whether the position is to be committed by itself: nothing is unfinished, and it stood still a while."""
        if self.account.unfinished:
            self.commit_at = None
            return False
        if self.commit_at is None and self.account.position > self.account.base:
            self.commit_at = now + limits.idle_commit_s
        return self.commit_at is not None and now >= self.commit_at
