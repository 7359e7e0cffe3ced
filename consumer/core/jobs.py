"""One record on its way to its outcome: the states, and which may follow which.

    WAITING -> LOOKING -> JOURNALING -> PREPARING -> READY -> ON_DEVICE -> FINISHING --+
     ^ |  |       |                                                                    |
     | |  v       +-- decided before: DECIDED; refused, expired, cancelled: -------> SETTLING
     | | FOLLOWING                                                                     |
     +-|--+ (its leader was decided or is over)                                        |
       +--> DECIDED (no request id: a dead letter) <-----------------------------------+
               |
               +----> PUBLISHING ---> gone

JOURNALING, PREPARING, READY and ON_DEVICE also go to SETTLING when the deadline passes, the request is cancelled or it
fails; LOOKING, PREPARING, ON_DEVICE and FINISHING go back to WAITING to be tried again.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from darkroom.consumer.core.journal import Entry
from darkroom.consumer.core.partition_key import JobKey

if TYPE_CHECKING:
    from darkroom.consumer.core.assignment import Partition

Identity = tuple[str, str]
"""Tenant and request id: what a decided outcome belongs to."""


class JobState(Enum):
    """Where a job is."""

    WAITING = "waiting"
    FOLLOWING = "following"
    LOOKING = "looking"
    JOURNALING = "journaling"
    PREPARING = "preparing"
    READY = "ready"
    ON_DEVICE = "on_device"
    FINISHING = "finishing"
    SETTLING = "settling"
    DECIDED = "decided"
    PUBLISHING = "publishing"


_W, _F, _L, _J, _P, _R, _O, _N, _S, _D, _U = JobState

TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    _W: frozenset({_F, _L, _D}),
    _F: frozenset({_W}),
    _L: frozenset({_J, _S, _D, _W}),
    _J: frozenset({_P, _S}),
    _P: frozenset({_R, _S, _W}),
    _R: frozenset({_O, _S}),
    _O: frozenset({_N, _S, _W}),
    _N: frozenset({_S, _W}),
    _S: frozenset({_D}),
    _D: frozenset({_U}),
    _U: frozenset({_D}),
}
"""Which state may follow which. PUBLISHING falls back to DECIDED where the transaction's fate is not known."""

OPEN_TO_INTERRUPTION = frozenset({_J, _P, _R, _O})
"""States that a deadline or a cancellation ends at once. Earlier ones first look for a standing outcome."""


IN_THE_LANES = frozenset({_J, _P, _R, _O, _N, _S})
"""States whose jobs are in the journal: from before anything decodes them to their outcome."""


class VerdictKind(Enum):
    """How a job ends. Becomes a completion's status."""

    RENDERED = "rendered"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a job ends, as far as this worker is concerned: a stored outcome stands above it."""

    kind: VerdictKind
    code: str | None = None
    message: str | None = None
    crashes: int = 0
    """Lonely crashes that led to it."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the core must know of a record to decide about it. Nothing of its content."""

    key: JobKey
    identity: Identity | None
    """None where no request id could be read: the record becomes a dead letter."""
    rows: int
    """Images asked for."""
    size_bytes: int
    priority: int
    """0 to 9; higher goes first."""
    waiting_since: float = 0.0
    """When the request came to Kafka, in seconds of the core's clock."""
    deadline: float | None = None
    """In seconds of the core's clock."""
    fetches_pose: bool = False
    """Its pose names a picture in the store."""
    refusal: Verdict | None = None
    """Why the record cannot be rendered, where decoding it said so."""


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
        """What its outcome belongs to. Only for a record whose request id could be read."""
        assert self.facts.identity is not None
        return self.facts.identity

    def to(self, state: JobState) -> None:
        """Move on. Raises `AssertionError` for a move that is not in the table: a bug, never an input."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"job {self.key} cannot go from {self.state.value} to {state.value}")
        self.state = state
