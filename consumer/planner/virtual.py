"""A clock and a device on which hours pass in seconds.

The device is the engine's own batch (`darkroom.inference.engine.step_batch.StepBatch`) between two lanes, with a
profile in place of the model: a step takes what the profile says of its slots. Preparing and finishing take their turns
in lanes of their own, as in `darkroom.inference.engine`.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

from darkroom.inference.engine.step_batch import HeldJob, HeldRow, StepBatch
from darkroom.inference.planning.profile import GUIDED_SLOTS, DeviceProfile
from darkroom.inference.planning.reuse import full_calls_of
from darkroom.inference.types import BatchKey, RenderJob, RenderRequest, RowCaps, RowId

Call = Callable[[], None]


class Clock(Protocol):
    """A virtual clock, or a real one."""

    def now(self) -> float:
        """Seconds from any origin."""

    def later(self, seconds: float, call: Call) -> None:
        """Call in so many seconds, never from within `later`."""


class VirtualClock:
    """Seconds that pass from one call to the next. Calls at the same moment come in the order of their asking."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._calls: list[tuple[float, int, Call]] = []
        self._asked = count()

    def now(self) -> float:
        """Seconds since the start."""
        return self.seconds

    def later(self, seconds: float, call: Call) -> None:
        """Call in so many seconds, at the earliest after everything that is due now."""
        heapq.heappush(self._calls, (self.seconds + max(0.0, seconds), next(self._asked), call))

    def run(self) -> None:
        """Until nobody asks for anything any more."""
        while self._calls:
            self.seconds, _, call = heapq.heappop(self._calls)
            call()


class Alarm:
    """Rings at the time that a core wants to be woken at. An earlier time than the one that is set takes its place."""

    def __init__(self, clock: Clock, ring: Call) -> None:
        self._clock = clock
        self._ring = ring
        self._at = math.inf

    def set(self, at: float | None) -> None:
        """Ring then; None asks for nothing, and takes nothing back."""
        now = self._clock.now()
        if at is not None and (at < self._at or self._at <= now):
            self._at = at
            self._clock.later(at - now, lambda: self._due(at))

    def _due(self, at: float) -> None:
        if at == self._at:
            self._at = math.inf
            self._ring()


@dataclass(slots=True)
class VirtualRow:
    """Implements `darkroom.inference.contract.Row`."""

    row_id: RowId
    batch_key: BatchKey
    steps_total: int
    unet_slots: int
    control_slots: int
    worth: float = 1.0
    """The mean of its steps' time, of which an economy picture's are full and shallow, as a share of a full step's."""
    steps_done: int = 0

    @property
    def full_steps(self) -> int:
        """All of them: the steps of an economy picture differ from one another, and here each takes their mean."""
        return self.steps_done

    @property
    def next_is_full(self) -> bool:
        """Always true, as for `full_steps`."""
        return True


@dataclass(frozen=True, slots=True)
class Leap:
    """Steps of the same rows, taken as one: until somebody joins or leaves nothing changes."""

    began: float
    step_s: float
    steps: int

    def until(self, now: float) -> int:
        """The steps that are over at the first boundary from `now` on."""
        if self.step_s <= 0:
            return 1
        # A boundary that is due now is this one: sums of step times are rounded.
        return max(1, math.ceil((now - self.began) / self.step_s - 1e-9))


@dataclass(frozen=True, slots=True)
class DeviceListener:
    """Receiver of what the device does, at the moment at which it happens."""

    prepared: Callable[[str, BatchKey, RowCaps | None], None]
    """The job, its key, the caps of the key where they were measured."""
    boundary: Callable[[Sequence[RowId]], None]
    """Rows that have retired."""
    rendered: Callable[[str], None]


def step_worth(profile: DeviceProfile, request: RenderRequest, key: BatchKey, *, cap: int) -> float:
    """Return the mean time of a request's steps, full and shallow ones, as a share of a full step's, in batches of
    `cap` rows."""
    full = full_calls_of(request)
    if full == request.calls:
        return 1.0
    size = key.latent_height, key.latent_width
    slots = cap * (GUIDED_SLOTS if request.guidance_scale > 1 else 1)
    full_ms = profile.step_ms(*size, unet_slots=slots, control_slots=0 if request.pose is None else slots)
    shallow_ms = profile.shallow_step_ms(*size, rows=cap, full_ms=full_ms)
    return (full + (request.calls - full) * shallow_ms / full_ms) / request.calls


class VirtualDevice:
    """Takes jobs as an engine does, and never fails.

    Steps are taken in leaps to the next boundary at which a row retires. Who joins or is dropped meanwhile cuts the
    leap at the boundary that comes next, so the times are those of single steps.
    """

    def __init__(
        self, profile: DeviceProfile, clock: VirtualClock, listener: DeviceListener, *, rows_max: int, prepare_s: float
    ) -> None:
        """`rows_max`: rows that may share a step, above the profile's caps. `prepare_s`: of a job, in its lane."""
        self._profile = profile
        self._clock = clock
        self._listener = listener
        self._rows_max = rows_max
        self._prepare_s = prepare_s
        self._known_caps: dict[BatchKey, RowCaps] = {}
        self._caps_set: dict[BatchKey, int] = {}
        self._step_s: dict[tuple[BatchKey, int, int], float] = {}
        self._jobs: dict[str, HeldJob[VirtualRow]] = {}
        self._finished: Counter[str] = Counter()
        self._batch: StepBatch[VirtualRow] = StepBatch(self.cap)
        self._stepping = False
        self._leap: Leap | None = None
        """Under way, and nothing is said of it yet."""
        self._prepare_free_at = 0.0
        self._finish_free_at = 0.0
        self.busy_s = 0.0
        """Spent in steps."""
        self.steps_by_rows: Counter[int] = Counter()

    def cap(self, key: BatchKey) -> int:
        """Rows of a key that may share a step."""
        caps = self._caps(key)
        return min(self._caps_set.get(key, caps.paying), caps.best)

    def set_cap(self, batch_key: BatchKey, rows: int) -> None:
        """Let at most so many rows of a key share a step from the next boundary on."""
        rises = rows > self.cap(batch_key)
        self._caps_set[batch_key] = rows
        if rises and self._leap is not None:
            self._cut(self._leap)

    def _caps(self, key: BatchKey) -> RowCaps:
        if key not in self._known_caps:
            size = key.latent_height, key.latent_width
            self._known_caps[key] = self._profile.caps(*size, rows_max=self._rows_max)
        return self._known_caps[key]

    def prepare(self, job_id: str, request: RenderRequest, key: BatchKey) -> None:
        """Queue for the prepare lane."""
        held = self._jobs[job_id] = HeldJob(RenderJob(job_id, request))
        slots = GUIDED_SLOTS if request.guidance_scale > 1 else 1
        control_slots = slots if request.pose is not None else 0
        worth = step_worth(self._profile, request, key, cap=self.cap(key))
        rows = [
            VirtualRow(RowId(job_id, image), key, request.calls, slots, control_slots, worth)
            for image in range(request.count)
        ]
        self._prepare_free_at = max(self._clock.now(), self._prepare_free_at) + self._prepare_s

        def prepared() -> None:
            if held.over:
                return
            held.receive(rows)
            self._listener.prepared(job_id, key, self._caps(key))

        self._clock.later(self._prepare_free_at - self._clock.now(), prepared)

    def admit(self, rows: Sequence[RowId]) -> None:
        """Let prepared rows join at the next boundary."""
        for row in rows:
            self._batch.admit(self._jobs[row.job_id].rows[row.image])
        if not self._stepping:
            self._step()
        elif self._leap is not None and len(self._batch.rows) < self.cap(self._batch.rows[0].row.batch_key):
            self._cut(self._leap)

    def drop(self, job_id: str) -> None:
        """Forget a job wherever it is. Its rows leave at the next boundary."""
        held = self._jobs.pop(job_id, None)
        if held is None:
            return
        self._finished.pop(job_id, None)
        self._batch.discard(held)
        held.end()
        if self._leap is not None:
            self._cut(self._leap)

    def close(self) -> None:
        """Drop everything."""
        for job_id in tuple(self._jobs):
            self.drop(job_id)

    def _step(self) -> None:
        self._batch.board(self._clock.now())
        rows = self._batch.device_rows
        self._stepping = bool(rows)
        if not rows:
            return
        unet, control = sum(row.unet_slots for row in rows), sum(row.control_slots for row in rows)
        steps = min(row.steps_total - row.steps_done for row in rows)
        worth = sum(row.worth * (row.unet_slots + row.control_slots) for row in rows) / (unet + control)
        self._begin(Leap(self._clock.now(), worth * self._seconds(rows[0].batch_key, unet, control), steps))

    def _begin(self, leap: Leap) -> None:
        self._leap = leap
        ends_at = leap.began + leap.steps * leap.step_s
        self._clock.later(ends_at - self._clock.now(), lambda: self._stepped(leap))

    def _cut(self, leap: Leap) -> None:
        """End the leap at the boundary that comes next."""
        steps = leap.until(self._clock.now())
        if steps < leap.steps:
            self._begin(replace(leap, steps=steps))

    def _stepped(self, leap: Leap) -> None:
        if leap is not self._leap:
            return  # it was cut
        self._leap = None
        rows = self._batch.device_rows
        self.busy_s += leap.steps * leap.step_s
        self.steps_by_rows[len(rows)] += leap.steps
        for row in rows:
            row.steps_done += leap.steps
        retired = self._batch.stepped(leap.step_s, self._clock.now()).retired
        if retired:
            self._listener.boundary([held.row_id for held in retired])
            for held in retired:
                self._finish(held)
        self._step()

    def _finish(self, row: HeldRow[VirtualRow]) -> None:
        key, held, job_id = row.row.batch_key, row.job, row.row_id.job_id
        decode_s = self._profile.decode_ms(key.latent_height, key.latent_width) / 1000
        self._finish_free_at = max(self._clock.now(), self._finish_free_at) + decode_s

        def finished() -> None:
            if held.over:
                return
            self._finished[job_id] += 1
            if self._finished[job_id] == len(held.rows):
                del self._jobs[job_id], self._finished[job_id]
                self._listener.rendered(job_id)

        self._clock.later(self._finish_free_at - self._clock.now(), finished)

    def _seconds(self, key: BatchKey, unet: int, control: int) -> float:
        known = (key, unet, control)
        if known not in self._step_s:
            self._step_s[known] = (
                self._profile.step_ms(key.latent_height, key.latent_width, unet_slots=unet, control_slots=control)
                / 1000
            )
        return self._step_s[known]
