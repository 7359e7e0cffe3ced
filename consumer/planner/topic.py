"""State outside of all workers: the request topic, what the group committed, and the decided outcomes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from darkroom.consumer.core.jobs import JobFacts
from darkroom.consumer.core.journal import Boot, Fate
from darkroom.consumer.core.partition_key import JobKey
from darkroom.inference.planning.request_costs import NOTHING_MEASURED, RequestCosts
from darkroom.inference.types import BatchKey, RenderRequest

TOPIC = "generation.requests"
RECORD_BYTES = 1_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request and when it comes."""

    at_s: float
    request: RenderRequest
    batch_key: BatchKey
    priority: int = 4


@dataclass(frozen=True, slots=True)
class Delays:
    """Seconds that everything beside the device takes. All 0: only the device and the batcher's choices are seen."""

    look_up_s: float = 0.0
    """Asking the store for an outcome that stands."""
    commit_s: float = 0.0
    """A transaction: there are two of a request, the journal's and the completion's."""
    prepare_s: float = 0.0
    settle_s: float = 0.0
    """Storing the pictures and the outcome."""


class Topic:
    """A Kafka and a store that never fail. Requests are known by their arrival's number.

    Invariants, each with a test of its name: `every_arrival_is_answered_once`, `a_fenced_writer_commits_nothing`.
    """

    def __init__(
        self,
        arrivals: Sequence[Arrival],
        partition_of: Sequence[int],
        partitions: int,
        costs: RequestCosts = NOTHING_MEASURED,
    ) -> None:
        """`partition_of`: the partition of each arrival, by its key's hash. `costs`: the workers' estimates."""
        self._costs = costs
        self.arrivals = arrivals
        self.partitions = partitions
        self._partition_of = partition_of
        self._log: list[list[JobFacts]] = [[] for _ in range(partitions)]
        self._numbers: list[list[int]] = [[] for _ in range(partitions)]
        self._committed: list[tuple[int, str]] = [(0, "")] * partitions
        self._writer = [0] * partitions
        self._decided = bytearray(len(arrivals))
        self._alive: set[Boot] = set()
        self.answered_at = [math.nan] * len(arrivals)
        self.answers = bytearray(len(arrivals))
        """How often each arrival was answered: once, or something is wrong."""
        self.unanswered = len(arrivals)
        self.lag = 0
        """High watermark less committed offset, over all partitions: what KEDA reads."""

    def append(self, number: int) -> int:
        """The arrival's record is in the topic. Returns its partition."""
        arrival, partition = self.arrivals[number], self._partition_of[number]
        log = self._log[partition]
        log.append(
            JobFacts(
                key=JobKey(TOPIC, partition, len(log)),
                identity=("planned", str(number)),
                rows=arrival.request.count,
                size_bytes=RECORD_BYTES,
                priority=arrival.priority,
                waiting_since=arrival.at_s,
                device_us=self._costs.microseconds(arrival.request),
            )
        )
        self._numbers[partition].append(number)
        self.lag += 1
        return partition

    def log(self, partition: int) -> Sequence[JobFacts]:
        """The partition's records."""
        return self._log[partition]

    @property
    def partitions_with_lag(self) -> int:
        """Those whose committed offset is behind."""
        return sum(committed < len(log) for (committed, _), log in zip(self._committed, self._log, strict=True))

    def number(self, job: JobKey) -> int:
        """The arrival that a record is."""
        return self._numbers[job.partition][job.offset]

    # --- Boots ---------------------------------------------------------------------------------------------

    def joined(self, boot: Boot) -> None:
        """A worker's process is a member of the group."""
        self._alive.add(boot)

    def left(self, boot: Boot) -> None:
        """It ended, and said so."""
        self._alive.discard(boot)

    def fates(self, boots: frozenset[Boot]) -> dict[Boot, Fate]:
        """Return the fates of boots: nobody crashes here."""
        return {boot: Fate.ALIVE if boot in self._alive else Fate.ENDED for boot in boots}

    # --- Partitions and outcomes ---------------------------------------------------------------------------

    def open(self, partition: int) -> tuple[int, int, str]:
        """Fence earlier writers. Returns the new writer's token, the committed offset and its metadata."""
        self._writer[partition] += 1
        return (self._writer[partition], *self._committed[partition])

    def commit(
        self, partition: int, token: int, committed: tuple[int, str], jobs: Sequence[JobKey], *, now: float
    ) -> bool:
        """One transaction: completions, and the offset with its metadata. False, and nothing is changed, where the
        writer is fenced.
        """
        if token != self._writer[partition]:
            return False
        for job in jobs:
            number = self.number(job)
            if not self.answers[number]:
                self.answered_at[number] = now
                self.unanswered -= 1
            self.answers[number] = min(255, self.answers[number] + 1)
        self.lag -= committed[0] - self._committed[partition][0]
        self._committed[partition] = committed
        return True

    def is_decided(self, job: JobKey) -> bool:
        """Return whether the record's outcome stands in the store."""
        return bool(self._decided[self.number(job)])

    def decide(self, job: JobKey) -> None:
        """Put it there."""
        self._decided[self.number(job)] = 1
