"""The deadlines of jobs that are not over, soonest first."""

from __future__ import annotations

import heapq
from itertools import count

from darkroom.consumer.core.partition import Job


class Deadlines:
    """A heap of (deadline, job). Jobs that are over are swept out whenever the heap has doubled since the last time."""

    def __init__(self) -> None:
        self._sweep_at = 1024
        self._heap: list[tuple[float, int, Job]] = []
        self._sequence = count()

    @property
    def wake_at(self) -> float | None:
        """The next deadline."""
        return self._heap[0][0] if self._heap else None

    def add(self, deadline: float, job: Job) -> None:
        """Watch a job's deadline, in seconds of the core's clock."""
        heapq.heappush(self._heap, (deadline, next(self._sequence), job))
        if len(self._heap) >= self._sweep_at:
            self._heap = [entry for entry in self._heap if not entry[2].over]
            heapq.heapify(self._heap)
            self._sweep_at = max(1024, 2 * len(self._heap))

    def due(self, now: float) -> list[Job]:
        """Take the jobs that are not over and whose deadline has come."""
        jobs = []
        while self._heap and self._heap[0][0] <= now:
            job = heapq.heappop(self._heap)[2]
            if not job.over:
                jobs.append(job)
        return jobs
