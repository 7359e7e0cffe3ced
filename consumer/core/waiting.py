"""The waiting room: records received and not started, in the order in which they will be.

Order: priority, then arrival in Kafka, with ageing. (Arrival here would serve one partition after the other, as
polls return them.) One level of priority weighs as much as `ageing_s` seconds of
waiting, and since every job ages at the same rate the order of two jobs never changes: the key
`waiting_since - priority * ageing_s` is fixed at arrival and a heap keeps it. So no row is passed over for longer
than nine levels' worth of ageing, whatever arrives after it, and the one that holds a partition's window
moves on.

Whose keys are in the same `TURN_S` take turns by partition, each partition's in their order. Producers send in bursts
and Kafka takes a partition's records by the batch, so without turns all rows of the device would often be one
partition's: when a rebalance gives it to another worker the device would be empty at once. With turns it loses a share.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count

from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition import Job, Partition
from darkroom.consumer.core.partition_key import PartitionKey

TURN_S = 0.5
"""Records that came so close together are taken to have come together: about a burst, and little to wait for a turn."""


class WaitingRoom:
    """Holds jobs in state WAITING. A job whose offset its partition's window cannot hold yet is parked."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._heap: list[tuple[float, int, int, Job]] = []
        self._turns: dict[PartitionKey, tuple[float, int]] = {}
        """By partition: the turns' stretch of time that was counted last, and how many of its jobs are in it."""
        self._parked: dict[PartitionKey, deque[Job]] = {}
        self._sequence = count()
        self._rows: dict[PartitionKey, int] = {}
        self.rows_total = 0
        self.bytes_total = 0
        self.changed = False
        """Whether what waits, or what its window keeps from starting, changed since this was last set to False."""

    def urgency(self, job: Job) -> float:
        """The fixed key of a job's place in the order, in seconds; smaller goes first."""
        return job.facts.waiting_since - job.facts.priority * self._limits.ageing_s

    def rows(self, partition: PartitionKey) -> int:
        """Rows of a partition that wait."""
        return self._rows.get(partition, 0)

    def parked(self, partition: PartitionKey) -> int:
        """Jobs of a partition that its window keeps from starting."""
        return len(self._parked.get(partition, ()))

    def add(self, job: Job, *, urgent: bool = False) -> None:
        """Let a job wait. `urgent` jobs (refused, expired, tried before) need little and go first."""
        self._count(job, +1)
        if job.partition.account.may_start(job.key.offset):
            self._push(job, urgent=urgent)
        else:
            self._parked.setdefault(job.partition.key, deque()).append(job)

    def expedite(self, job: Job) -> None:
        """Move a waiting job to the front. One that is parked stays parked: the window has no place for it."""
        if job not in self._parked.get(job.partition.key, ()):
            self._push(job, urgent=True)

    def unpark(self, partition: Partition) -> None:
        """The partition's window moved: let those start that it can hold now."""
        parked = self._parked.get(partition.key)
        self.changed = self.changed or bool(parked)
        while parked and partition.account.may_start(parked[0].key.offset):
            self._push(parked.popleft(), urgent=False)

    def pop(self) -> Job | None:
        """Take the most urgent job that may start, if there is one. It is still WAITING."""
        while self._heap:
            job = heapq.heappop(self._heap)[-1]
            if job.waits:
                self._count(job, -1)
                return job
        return None

    def discard(self, job: Job) -> None:
        """A waiting job is gone. Its places in the order are passed over later."""
        self._count(job, -1)
        parked = self._parked.get(job.partition.key)
        if parked and job in parked:
            parked.remove(job)

    def _push(self, job: Job, *, urgent: bool) -> None:
        stretch = float("-inf") if urgent else self.urgency(job) // TURN_S
        turn = 0 if urgent else self._turn(job.partition.key, stretch)
        heapq.heappush(self._heap, (stretch, turn, next(self._sequence), job))

    def _turn(self, partition: PartitionKey, stretch: float) -> int:
        counted, turns = self._turns.get(partition, (stretch, 0))
        turn = turns if counted == stretch else 0
        self._turns[partition] = stretch, turn + 1
        return turn

    def _count(self, job: Job, sign: int) -> None:
        self.changed = True
        job.waits = sign > 0
        self.rows_total += sign * job.facts.rows
        self.bytes_total += sign * job.facts.size_bytes
        rows = self.rows(job.partition.key) + sign * job.facts.rows
        if rows:
            self._rows[job.partition.key] = rows
        else:
            self._rows.pop(job.partition.key, None)
