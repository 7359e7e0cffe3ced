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

from dataclasses import dataclass
from enum import Enum

from darkroom.consumer.core.partition_key import JobKey

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


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.WAITING: frozenset({JobState.FOLLOWING, JobState.LOOKING, JobState.DECIDED}),
    JobState.FOLLOWING: frozenset({JobState.WAITING}),
    JobState.LOOKING: frozenset({JobState.JOURNALING, JobState.SETTLING, JobState.DECIDED, JobState.WAITING}),
    JobState.JOURNALING: frozenset({JobState.PREPARING, JobState.SETTLING}),
    JobState.PREPARING: frozenset({JobState.READY, JobState.SETTLING, JobState.WAITING}),
    JobState.READY: frozenset({JobState.ON_DEVICE, JobState.SETTLING}),
    JobState.ON_DEVICE: frozenset({JobState.FINISHING, JobState.SETTLING, JobState.WAITING}),
    JobState.FINISHING: frozenset({JobState.SETTLING, JobState.WAITING}),
    JobState.SETTLING: frozenset({JobState.DECIDED}),
    JobState.DECIDED: frozenset({JobState.PUBLISHING}),
    JobState.PUBLISHING: frozenset({JobState.DECIDED}),
}
"""Which state may follow which. PUBLISHING falls back to DECIDED where the transaction's fate is not known."""

OPEN_TO_INTERRUPTION = frozenset({JobState.JOURNALING, JobState.PREPARING, JobState.READY, JobState.ON_DEVICE})
"""States that a deadline or a cancellation ends at once. Earlier ones first look for a standing outcome."""


IN_THE_LANES = OPEN_TO_INTERRUPTION | {JobState.FINISHING, JobState.SETTLING}
"""States whose jobs are in the journal: from before anything decodes them to their outcome."""


class VerdictKind(Enum):
    """Outcome of a job, which becomes a completion's status."""

    RENDERED = "rendered"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Verdict:
    """This worker's decision on a job: a stored outcome stands above it."""

    kind: VerdictKind
    code: str | None = None
    message: str | None = None
    crashes: int = 0
    """Lonely crashes that led to it."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """Facts that the core decides about a record by. Nothing of its content."""

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
    fetches_pictures: bool = False
    """Its pose names a picture in the store."""
    device_us: int = 0
    """Microseconds of the device that its pictures are measured to take; 0 where nothing was measured. Whole ones, so
    that a sum over many jobs is exact."""
    refusal: Verdict | None = None
    """Why the record cannot be rendered, where decoding it said so."""
