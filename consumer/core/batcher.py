"""Which prepared rows join the device next.

Objective: as many rows on the device as still pay, and no more. The cap for a shape is the smallest batch
whose measured throughput is at least 95% of the best; beyond it a join mostly slows the rows that are there. Under a
backlog nobody waits for one row alone, and the cap is the batch of the best throughput. The engine says both once for a
shape (`CapKnown`); where it does not, and above them, the setting `batch.max_rows` bounds the batch. Running out of
memory lowers them for a time (`darkroom.consumer.core.ceilings`).

Rules:

1. Rows on the device share one batch key. While any is there, only its key may join.
2. Order is the waiting room's. A row of another key that has been ready for `key_switch_s` closes the door:
   the device empties, and the key of the most urgent row runs next. Nobody is pre-empted.
3. An empty device lingers for a second row for at most `linger_s`, and only while something is being
   prepared: a row can always join at the next boundary, so waiting longer gains nothing.
4. Rows under suspicion run apart: one group at a time, with nothing else on the device.
5. A few rows more than the cap are handed over (half of it, at most `ahead_rows_max`), so that a place is taken at
   the boundary at which it falls free; the engine holds them in order and keeps to the same cap. Of a memory ceiling it
   knows nothing: under one, none are handed ahead.
6. A backlog begins with more than `backlog_s` of work that waits, in more rows than `BACKLOG_BATCHES` of the best
   batches hold: on a slow device one row may be a minute's work. It is gone when all rows there are, waiting or handed
   over, are no more than would be handed over without one. In between nothing changes, so that the cap does not flap,
   and rows that were handed over under the larger cap run under it.

Invariants, each with a test of its name:

- `the_cap_follows_the_backlog`: the cap is the paying one or the best one, and changes only as rule 6 says.
- `the_engine_keeps_to_the_core_s_cap`: `SetCap` comes before any row that is handed over under the new cap.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import NamedTuple

from darkroom.consumer.core.ceilings import Ceilings
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition import Job
from darkroom.consumer.core.partition_key import RowKey

BACKLOG_BATCHES = 3
"""A row that begins first waits for its whole batch: with three more batches behind it, a quarter of all."""


class Waiting(NamedTuple):
    """All that is to join the device and was not handed to it."""

    rows: int
    device_s: float
    """Seconds of the device that those rows are measured to take."""
    more_is_coming: bool
    """Some of them are looked up or prepared at this moment."""


class _Caps(NamedTuple):
    paying: int
    best: int


class Batcher:
    """Knows the ready rows and the rows handed to the device."""

    def __init__(self, limits: Limits, urgency: Callable[[Job], float]) -> None:
        self._limits = limits
        self._urgency = urgency
        self._ready: list[Job] = []
        self._on_device: dict[RowKey, Job] = {}
        self._device_key: Hashable = None
        self._caps: dict[Hashable, _Caps] = {}
        """By batch key. The sizes that the model takes bound their number."""
        self._told: dict[Hashable, int] = {}
        """The caps that the engine keeps to, where they were set."""
        self.backlog = False
        """Whether throughput counts more than latency now."""
        self._ceilings = Ceilings(limits.oom_probe_s)
        self._apart: deque[tuple[RowKey, ...]] = deque()
        self._linger_until: float | None = None

    @property
    def rows_on_device(self) -> int:
        """Rows handed to the device and not retired."""
        return len(self._on_device)

    @property
    def first_ready(self) -> Job | None:
        """The most urgent job with prepared rows that were not handed to the device."""
        return self._ready[0] if self._ready else None

    @property
    def wake_at(self) -> float | None:
        """When a choice that was put off by lingering is due."""
        return self._linger_until

    def cap(self, key: Hashable) -> int:
        """Rows of a shape that may share a step now."""
        cap, ceiling = self._measured_cap(key), self._ceilings.of(key)
        return cap if ceiling is None else min(cap, ceiling)

    def know_cap(self, key: Hashable, rows: int, rows_best: int) -> None:
        """Remember how many rows of a batch key pay together, and how many give the best throughput."""
        self._caps[key] = _Caps(rows, rows_best)

    def add(self, job: Job) -> None:
        """A job's rows (`rows_ready`) are prepared, or came back from a failed step."""
        if job not in self._ready:
            self._ready.append(job)
            self._ready.sort(key=lambda ready: (self._urgency(ready), ready.key))

    def retire(self, row: RowKey) -> None:
        """A row left the device."""
        job = self._on_device.pop(row, None)
        if job is not None:
            job.rows_on_device.discard(row.image)

    def remove(self, job: Job) -> None:
        """A job is over: none of its rows is on the device or will join it."""
        for index in tuple(job.rows_on_device):
            self.retire(RowKey(job.key, index))
        job.rows_ready.clear()
        if job in self._ready:
            self._ready.remove(job)

    def lower_ceiling(self, key: Hashable, rows_max: int, now: float) -> None:
        """More rows of this shape than `rows_max` ran out of memory together."""
        self._ceilings.lower(key, min(rows_max, self.cap(key)), now)

    def run_apart(self, groups: tuple[tuple[RowKey, ...], ...]) -> None:
        """Run these groups before everything else, each by itself."""
        self._apart.extendleft(reversed(groups))

    def follow_backlog(self, waiting: Waiting) -> tuple[Hashable, int] | None:
        """Begin or end a backlog by what waits. Return the batch key to run and its cap where the engine has another.

        Call it before `choose`.
        """
        key = self._device_key if self._on_device else self._key_to_run()
        if not self.backlog:
            many = waiting.rows > BACKLOG_BATCHES * self._known(key).best
            self.backlog = many and waiting.device_s > self._limits.backlog_s
        else:
            few = 0 if key is None else self._handed_max(self._known(key).paying)
            self.backlog = waiting.rows + len(self._on_device) > few
        if key is None:
            return None
        rows = self._measured_cap(key)
        if self._told.get(key, self._known(key).paying) == rows:
            return None
        self._told[key] = rows
        return key, rows

    def choose(self, now: float, *, more_is_coming: bool) -> tuple[RowKey, ...]:
        """The rows to hand to the device now. They count as on the device from here on."""
        self._linger_until = None
        if self._apart:
            if self._on_device:
                return ()
            if apart := self._choose_apart():
                return apart
            # Nobody of those groups is left, and no event may come that asks again: the others are chosen now.
        key = self._device_key if self._on_device else self._key_to_run()
        joining = self._joining(key, now)
        if not joining or self._lingers(joining, key, now, more_is_coming=more_is_coming):
            return ()
        return self._hand_over(joining, key)

    def _key_to_run(self) -> Hashable:
        return self._ready[0].batch_key if self._ready else None

    def _known(self, key: Hashable) -> _Caps:
        """Rows of a shape that pay together and that are best together, memory set aside."""
        rows_max = self._limits.batch_rows_max
        caps = self._caps.get(key)
        return _Caps(rows_max, rows_max) if caps is None else _Caps(*(min(rows, rows_max) for rows in caps))

    def _measured_cap(self, key: Hashable) -> int:
        caps = self._known(key)
        return caps.best if self.backlog else caps.paying

    def _handed_max(self, cap: int) -> int:
        """Rows that are handed over under a cap: the batch, and those ahead of it."""
        return cap + min(self._limits.ahead_rows_max, max(1, cap // 2))

    def _joining(self, key: Hashable, now: float) -> list[tuple[Job, int]]:
        self._ceilings.lift(key, self._known(key).best, now)
        cap = self.cap(key)
        room = (cap if self._ceilings.of(key) is not None else self._handed_max(cap)) - len(self._on_device)
        joining: list[tuple[Job, int]] = []
        for job in self._ready:
            if job.batch_key != key:
                if now - job.ready_at >= self._limits.key_switch_s:
                    break
                continue
            for index in sorted(job.rows_ready):
                if len(joining) >= room:
                    return joining
                joining.append((job, index))
        return joining

    def _lingers(self, joining: list[tuple[Job, int]], key: Hashable, now: float, *, more_is_coming: bool) -> bool:
        if self._on_device or not more_is_coming or len(joining) >= self.cap(key):
            return False
        until = min(job.ready_at for job, _ in joining) + self._limits.linger_s
        if now >= until:
            return False
        self._linger_until = until
        return True

    def _choose_apart(self) -> tuple[RowKey, ...]:
        """Hand over the next group that still has rows. Empty, and no group is left, where none has."""
        ready = {RowKey(job.key, index): job for job in self._ready for index in job.rows_ready}
        while self._apart:
            group = [row for row in self._apart.popleft() if row in ready]
            if group:
                first = ready[group[0]]
                return self._hand_over([(ready[row], row.image) for row in group], first.batch_key)
        return ()

    def _hand_over(self, joining: list[tuple[Job, int]], key: Hashable) -> tuple[RowKey, ...]:
        self._device_key = key
        rows = []
        for job, index in joining:
            row = RowKey(job.key, index)
            job.rows_ready.discard(index)
            job.rows_on_device.add(index)
            self._on_device[row] = job
            rows.append(row)
        self._ready = [job for job in self._ready if job.rows_ready]
        return tuple(rows)
