"""The frozen effects that the core returns: orders to its driver. One driver performs them, in their order."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from darkroom.consumer.core.jobs import Verdict
from darkroom.consumer.core.partition_key import JobKey, PartitionKey, RowKey


@dataclass(frozen=True, slots=True)
class OpenPartition:
    """Settle or give up the old transaction, fence, read the offset, then report `PartitionOpened`."""

    partition: PartitionKey
    epoch: int
    prove_ownership: bool
    """Ask the group first whether the partition is still ours: a zombie must not fence its lawful owner."""


@dataclass(frozen=True, slots=True)
class ClosePartition:
    """The partition is somebody else's now: give up its writer without publishing anything more."""

    partition: PartitionKey


@dataclass(frozen=True, slots=True)
class Resume:
    """Deliver records of the partition, from this offset where one is given."""

    partition: PartitionKey
    seek_to: int | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """Deliver no records of the partition for now."""

    partition: PartitionKey


@dataclass(frozen=True, slots=True)
class Keep:
    """The record of the `RecordArrived` being handled is new work: keep its content until `Forget`."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class LookUp:
    """See whether the request's outcome was decided before: `OutcomeFound` or `OutcomeAbsent`."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class FetchPictures:
    """Read the stored pictures that the job names, of its pose and otherwise: `PicturesFetched` or `JobFaulted`."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class Prepare:
    """Judge the prompt and queue the job for the prepare lane: `Prepared` or `JobFaulted`."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class Admit:
    """Let these rows join the device at the next step boundary, in this order."""

    rows: tuple[RowKey, ...]


@dataclass(frozen=True, slots=True)
class SetCap:
    """Let at most so many rows of a batch key share a step from the next boundary on."""

    batch_key: Hashable
    rows: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Store the images, if any, and decide the outcome with the conditional put: `Settled`."""

    job: JobKey
    verdict: Verdict


StoreCall = LookUp | FetchPictures | Settle
"""Effects that the store's absence holds up."""


@dataclass(frozen=True, slots=True)
class Publish:
    """One transaction: the jobs' completions or dead letters, and the offset with its metadata."""

    partition: PartitionKey
    epoch: int
    jobs: tuple[JobKey, ...]
    offset: int
    metadata: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Stop rendering the job: its rows leave the device at the next boundary. Its record is still ours."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class Forget:
    """The job is over here: it was published, or its partition was lost."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class Stop:
    """All that was to be finished is published: leave the group and end."""

    clean: bool
    """False where the drain's time ran out with work unfinished; that work is delivered to somebody else."""


Effect = (
    OpenPartition
    | ClosePartition
    | Resume
    | Pause
    | Keep
    | LookUp
    | FetchPictures
    | Prepare
    | Admit
    | SetCap
    | Settle
    | Publish
    | Leave
    | Forget
    | Stop
)
