"""The frozen events that the core takes: reports of what happened. Times are arguments of `Core.handle`, not fields."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from darkroom.consumer.core.effects import StoreCall
from darkroom.consumer.core.jobs import Identity, JobFacts
from darkroom.consumer.core.journal import Boot, Fate
from darkroom.consumer.core.offset_map import Commit
from darkroom.consumer.core.partition_key import JobKey, PartitionKey, RowKey


@dataclass(frozen=True, slots=True)
class Started:
    """The model is resident and warm: records may come."""


@dataclass(frozen=True, slots=True)
class PartitionsRevoked:
    """A rebalance began. Which partitions are really lost is known only when it ends."""

    partitions: frozenset[PartitionKey]


@dataclass(frozen=True, slots=True)
class PartitionsAssigned:
    """A rebalance ended: these partitions, and no others, are assigned."""

    partitions: frozenset[PartitionKey]


@dataclass(frozen=True, slots=True)
class PartitionOpened:
    """The old transaction is settled, any zombie is fenced, and this is what the group committed."""

    partition: PartitionKey
    epoch: int
    commit: Commit
    fresh: bool = False
    """The group had no committed offset: the commit's base is where the topic begins, and is to be committed."""
    fates: Mapping[Boot, Fate] = field(default_factory=dict)
    """What became of the boots that the commit's journal names."""


@dataclass(frozen=True, slots=True)
class OpenFailed:
    """Opening did not succeed. It is tried again."""

    partition: PartitionKey
    epoch: int


@dataclass(frozen=True, slots=True)
class RecordArrived:
    """One delivered record."""

    facts: JobFacts
    epoch: int


NOT_OPEN = 0
"""The epoch of what was fetched while the partition was not open: no partition ever has it."""


@dataclass(frozen=True, slots=True)
class PositionAdvanced:
    """The consumer's position, after the records before it were reported.

    Under another epoch than the partition's it says only that the consumer has passed records that were not taken.
    """

    partition: PartitionKey
    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class OutcomeFound:
    """The request's outcome was decided before; the record's completion is made from it."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class OutcomeAbsent:
    """No outcome stands for the request yet."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """The store could not be reached. Nobody's request is at fault; the call is made again."""

    call: StoreCall


@dataclass(frozen=True, slots=True)
class PicturesFetched:
    """The pictures that the job names were read from the store."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class Prepared:
    """The job's rows may join the device."""

    job: JobKey
    batch_key: Hashable


@dataclass(frozen=True, slots=True)
class CapKnown:
    """The engine has measured, or set anew, how many rows of a batch key pay together."""

    batch_key: Hashable
    rows: int
    """The cap while latency counts; the engine keeps to it until `SetCap` names another."""
    rows_best: int
    """The cap under a backlog: the batch of the best throughput, at least `rows`."""


class FaultParty(Enum):
    """Party at fault for a failure on the device or beside it."""

    REQUEST = "request"
    MEMORY = "memory"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class JobFaulted:
    """One job failed while it was prepared or finished."""

    job: JobKey
    party: FaultParty
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class StepBoundary:
    """A step is over. `retired` rows are complete and have left the device."""

    retired: tuple[RowKey, ...]


@dataclass(frozen=True, slots=True)
class StepFaulted:
    """A step failed and changed nothing; its rows left the device."""

    rows: tuple[RowKey, ...]
    party: FaultParty
    code: str
    message: str
    dropped: int = 0
    """Rows that were in the step too, and are nobody's any more."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """All images of a job are encoded."""

    job: JobKey
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Settled:
    """The job's outcome is decided in the store: by this worker or by whoever came first."""

    job: JobKey


@dataclass(frozen=True, slots=True)
class Published:
    """The transaction of a `Publish` effect was committed."""

    partition: PartitionKey
    epoch: int


class Refusal(Enum):
    """Why a broker refuses a transaction, where the next one like it would be refused too."""

    SIZE = "size"
    """A record is larger than its topic allows."""
    METADATA = "metadata"
    """The commit's metadata is larger than the broker's `offset.metadata.max.bytes`."""
    RIGHTS = "rights"
    TOPIC = "topic"
    """A topic is not there."""
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class PublishFailed:
    """It was not, or nobody knows: fenced, refused, or timed out. `fenced` asks for proof of ownership first."""

    partition: PartitionKey
    epoch: int
    fenced: bool
    refusal: Refusal | None = None
    """Set where the broker said no: nothing of the transaction was committed."""


@dataclass(frozen=True, slots=True)
class CancellationArrived:
    """A requester does not want the outcome any more."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


@dataclass(frozen=True, slots=True)
class DrainRequested:
    """Finish what is on the device and leave, within the drain's time."""


Event = (
    Started
    | PartitionsRevoked
    | PartitionsAssigned
    | PartitionOpened
    | OpenFailed
    | RecordArrived
    | PositionAdvanced
    | OutcomeFound
    | OutcomeAbsent
    | StoreFailed
    | CapKnown
    | PicturesFetched
    | Prepared
    | JobFaulted
    | StepBoundary
    | StepFaulted
    | Rendered
    | Settled
    | Published
    | PublishFailed
    | CancellationArrived
    | Tick
    | DrainRequested
)
