"""Decides which callback is tried next, and how far each partition is settled. Pure: times are given, in seconds.

Each receiver has a queue of its own. One that fails is asked by one callback at a time and ever less often, so it costs
the others nothing; one that answers again gets what waits at once. A callback that fails where others do not has a
back-off of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from darkroom.consumer.hooks.sending import Message
    from darkroom.producer.kafka.reader import TopicPartition

RECEIVER_SENDING_MAX: Final = 4
"""Callbacks on their way to one receiver that answers."""
AGAIN_S: Final = 5.0
"""The wait before a callback's second try; doubled for each further one."""
AGAIN_S_MAX: Final = 600.0
"""The longest wait between two tries of a callback."""
RECEIVER_AGAIN_S: Final = 1.0
"""How long a receiver is left alone after it failed; doubled for each further failure in a row."""
RECEIVER_AGAIN_S_MAX: Final = 60.0
"""The longest time that a receiver is left alone: so late its return is noticed."""
OUTAGE_FAILURES: Final = 3
"""Failures in a row after which a receiver counts as having been away."""
JITTER: Final = 0.2
"""By how much of itself a wait is longer at random."""


class ReceiverKey(NamedTuple):
    """Whom a callback goes to. Tenants do not share a queue, whatever addresses they name."""

    tenant: str
    origin: str


@dataclass(slots=True, eq=False)
class Delivery:
    """A callback on its way."""

    place: TopicPartition
    offset: int
    window: Window | None
    """The window that it is to be settled in: another one has taken its place once the partition was given away."""
    tenant: str
    request_id: str
    message: Message
    ended_at: float
    """When the job ended, in seconds since 1970."""
    attempts: int = 0
    error: str = ""
    """Why the last try failed."""

    @property
    def receiver(self) -> ReceiverKey:
        """Return whom it goes to."""
        parts = urlsplit(self.message.url)
        return ReceiverKey(self.tenant, f"{parts.scheme}://{parts.netloc}".lower())


@dataclass(slots=True)
class _Queue:
    waiting: list[tuple[float, int, Delivery]] = field(default_factory=list)
    """A heap by the time from which each may be tried."""
    sending: int = 0
    failures: int = 0
    """In a row."""
    again_at: float = 0.0


class Schedule:
    """The callbacks that wait, by receiver. `draw` gives numbers in 0..1 for the jitter."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw
        self._queues: dict[ReceiverKey, _Queue] = {}
        self._numbers = count()
        self._size = 0

    def __len__(self) -> int:
        """Return the number of callbacks that wait. Those on their way are not counted."""
        return self._size

    def add(self, delivery: Delivery, at: float = 0.0) -> None:
        """Add a callback, to be tried from `at` on."""
        queue = self._queues.setdefault(delivery.receiver, _Queue())
        heapq.heappush(queue.waiting, (at, next(self._numbers), delivery))
        self._size += 1

    def take(self, now: float) -> Delivery | None:
        """Take out a callback that is to be tried now: of the receiver whose turn is the longest ago."""
        for key, queue in self._queues.items():
            if queue.waiting and queue.waiting[0][0] <= now and _has_room(queue, now):
                *_, delivery = heapq.heappop(queue.waiting)
                self._size -= 1
                queue.sending += 1
                self._queues[key] = self._queues.pop(key)
                return delivery
        return None

    def due_at(self) -> float | None:
        """Return when `take` will have one, as far as that does not depend on those on their way; None without any."""
        times = [
            max(queue.waiting[0][0], queue.again_at)
            for queue in self._queues.values()
            if queue.waiting and queue.sending < _sending_max(queue)
        ]
        return min(times, default=None)

    def delivered(self, delivery: Delivery) -> None:
        """Note that a callback was taken: its receiver answers."""
        queue = self._queues[delivery.receiver]
        queue.sending -= 1
        was_away = queue.failures >= OUTAGE_FAILURES
        queue.failures, queue.again_at = 0, 0.0
        if was_away:
            # What failed with the receiver, and not by itself, gets another chance now.
            queue.waiting = [(0.0, number, one) for _, number, one in sorted(queue.waiting, key=lambda one: one[:2])]
        self._forget(delivery.receiver)

    def failed(self, delivery: Delivery, now: float, *, again: bool = True) -> None:
        """Note that a try failed, and let the callback wait for its next one unless it is not to be tried `again`."""
        queue = self._queues[delivery.receiver]
        queue.sending -= 1
        queue.again_at = now + self._wait(RECEIVER_AGAIN_S, queue.failures, RECEIVER_AGAIN_S_MAX)
        queue.failures += 1
        if again:
            self.add(delivery, now + self._wait(AGAIN_S, delivery.attempts - 1, AGAIN_S_MAX))
        self._forget(delivery.receiver)

    def give_up_one(self) -> Delivery | None:
        """Take out the oldest callback of the failing receiver that most wait for; None where no receiver fails."""
        failing = [queue for queue in self._queues.values() if queue.failures and queue.waiting]
        if not failing:
            return None
        queue = max(failing, key=lambda one: len(one.waiting))
        oldest = min(queue.waiting, key=lambda one: one[2].ended_at)
        queue.waiting.remove(oldest)
        heapq.heapify(queue.waiting)
        self._size -= 1
        return oldest[2]

    def clear(self) -> None:
        """Drop every callback that waits. Those on their way are still to be reported."""
        for key, queue in list(self._queues.items()):
            queue.waiting.clear()
            self._forget(key)
        self._size = 0

    def _wait(self, first_s: float, failures: int, longest_s: float) -> float:
        return float(min(first_s * 2 ** min(failures, 30), longest_s) * (1 + JITTER * self._draw()))

    def _forget(self, key: ReceiverKey) -> None:
        queue = self._queues[key]
        if not queue.waiting and not queue.sending:
            del self._queues[key]


def _sending_max(queue: _Queue) -> int:
    return 1 if queue.failures else RECEIVER_SENDING_MAX


def _has_room(queue: _Queue, now: float) -> bool:
    return queue.sending < _sending_max(queue) and queue.again_at <= now


class Window:
    """The records of one partition that were read, and how far all of them are settled."""

    def __init__(self, first: int) -> None:
        self._open: set[int] = set()
        self._next = first

    def __len__(self) -> int:
        """Return the number of records that are not settled."""
        return len(self._open)

    def read(self, offset: int) -> None:
        """Note a record."""
        self._open.add(offset)
        self._next = offset + 1

    def settle(self, offset: int) -> None:
        """Note that nothing more is to be done for a record."""
        self._open.discard(offset)

    @property
    def position(self) -> int:
        """Return the offset to commit: whoever reads on from it misses nothing."""
        return min(self._open, default=self._next)
