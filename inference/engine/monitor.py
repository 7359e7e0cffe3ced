"""The one lock between an engine's callers and its three lanes.

A monitor in Hoare's sense. Every method takes the lock, changes what `darkroom.inference.engine.step_batch` holds, and
sends the events of that change before it releases the lock. So events always describe the present state, and none
mentions a job once `drop` has returned. The device is never called with the lock held: a lane
(`darkroom.inference.engine.lanes`) takes work here, does it outside, and brings back the outcome. A row's way:

                 prepare lane          admit()            boundary
    prepare() ─> ............ ─> PREPARED ─> JOINING ──────────────> ON_DEVICE ──┐ step
                      │             ^                                 │  │  ^────┘
                      │             └──────────── step failed ────────┘  │ last step
                      v                                                  v
                  JobFailed         JobFailed <──── finish lane <──── RETIRED
                                                        │
                                                        └─> JobRendered, once all rows of the job are in

`drop()` ends a job from any of these places: its rows leave the device at the next boundary and the lanes skip them. A
job id may then be prepared again at once: the lanes treat it as a different job.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Generic

from darkroom.inference.contract import Listener, PreparedRows, RowT
from darkroom.inference.engine.step_batch import HeldJob, HeldRow, PreviewQueue, RowStage, StepBatch
from darkroom.inference.engine.turns import Turns
from darkroom.inference.types import (
    SHALLOW_SHARE,
    BatchKey,
    EngineEvent,
    EngineStopped,
    JobFailed,
    JobId,
    JobPrepared,
    JobPreview,
    Lane,
    Preview,
    RenderedImage,
    RenderFault,
    RenderJob,
    RowCaps,
    RowId,
    Series,
    StepDone,
    StepFailed,
)

FinishedRows = tuple[HeldRow[RowT], ...]
"""Complete rows of one job that left the device at one boundary, in order of their images."""


class EngineFullError(RuntimeError):
    """The engine holds as many jobs as it may: drop some or wait until some have ended, then prepare more."""


class LaneMonitor(Generic[RowT]):
    """The state that callers and lanes share, and the waiting for it.

    `next_job`, `let_join` and `next_finished` block until there is work or the monitor has ended. After `end` no event
    is sent and every call is without effect.
    """

    def __init__(
        self,
        *,
        caps: Callable[[BatchKey], RowCaps],
        finish_queue_rows_max: int,
        jobs_max: int,
        preview_interval_s: float,
        clock: Callable[[], float],
        shallow_share: Callable[[BatchKey], float] = lambda _key: SHALLOW_SHARE,
    ) -> None:
        """Make a monitor without a listener. `caps` returns how many rows of a key may share a step.

        `shallow_share` returns the time of a shallow step as a share of a full one's. The bounds and the clock are
        those of `darkroom.inference.engine.lane_engine.LaneEngine`.
        """
        self._caps = caps
        self._caps_set: dict[BatchKey, int] = {}
        """Caps that the caller set. The sizes that the model takes bound their number."""
        self._finish_queue_rows_max = finish_queue_rows_max
        self._jobs_max = jobs_max
        self._clock = clock
        # Reentrant, because a listener may call prepare, admit and drop. It guards everything below.
        self._lock = threading.RLock()
        self._job_queued = threading.Condition(self._lock)
        self._boundary_open = threading.Condition(self._lock)
        self._rows_retired = threading.Condition(self._lock)
        self._listener: Listener | None = None
        self._ended = False
        self._jobs: dict[JobId, HeldJob[RowT]] = {}
        self._to_prepare: OrderedDict[JobId, HeldJob[RowT]] = OrderedDict()
        self._batch: StepBatch[RowT] = StepBatch(self._cap, shallow_share)
        self._to_finish: deque[FinishedRows[RowT]] = deque()
        self._unfinished_rows = 0
        self._stepped_at: float | None = None
        """The end of the last step; None before the first and after a failed one."""
        self._turns = Turns(Series.NONE)
        self._previews: PreviewQueue[RowT] = PreviewQueue(preview_interval_s)

    # --- Callers ---------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Send events to `listener` from now on. Raises `RuntimeError` if there is one already, or after the end."""
        with self._lock:
            if self._listener is not None or self._ended:
                raise RuntimeError("an engine starts once: make another one")
            self._listener = listener

    def take_turns(self, series: Series) -> None:
        """Let the lanes of `series` in by turns. Call it before any lane starts."""
        with self._lock:
            self._turns = Turns(series)

    def prepare(self, job: RenderJob) -> None:
        """Queue a job for the prepare lane, which answers with `JobPrepared` or `JobFailed`.

        Raises `ValueError` for a job id that the engine already holds and `EngineFullError` above `jobs_max`. Does
        nothing once the engine has ended.
        """
        with self._lock:
            if self._ended:
                return
            if job.job_id in self._jobs:
                raise ValueError(f"job {job.job_id!r} is already in the engine: drop it before preparing it again")
            if len(self._jobs) >= self._jobs_max:
                raise EngineFullError(f"the engine holds {len(self._jobs)} jobs, its limit: drop some or wait")
            self._jobs[job.job_id] = self._to_prepare[job.job_id] = HeldJob(job)
            self._job_queued.notify()

    def admit(self, rows: Sequence[RowId]) -> None:
        """Let prepared rows join at the next step boundary, in this order.

        Rows of the key on the device join as room allows, ahead of rows of other keys that were admitted earlier: a
        caller who wants the key to change admits no more rows of the present one. Rows of jobs that have ended are
        skipped, because news of the end may still be under way. Raises `ValueError`, and admits none, for a row that
        its job does not have, that is not prepared, or that was already admitted.
        """
        with self._lock:
            if self._ended:
                return
            admitted = {row_id: self._find_prepared(row_id) for row_id in rows if row_id.job_id in self._jobs}
            for held in admitted.values():
                self._batch.admit(held)
            if admitted:
                self._boundary_open.notify()

    def set_cap(self, batch_key: BatchKey, rows: int) -> None:
        """Let at most `rows` rows of a key share a step from the next boundary on. Raises `ValueError` for none.

        More than the key's best cap counts as that: it is what was measured, or what the memory holds.
        """
        if rows < 1:
            raise ValueError(f"the cap of {batch_key} is {rows}: give a number above 0")
        with self._lock:
            self._caps_set[batch_key] = rows

    def drop(self, job_id: JobId) -> None:
        """Forget a job at whatever stage it is: no event mentions it once this has returned.

        A listener that hands events over to another thread may still hold some of them. It tells incarnations of a job
        apart by giving each its own job id.
        """
        with self._lock:
            held = self._jobs.get(job_id)
            if held is not None:
                self._end_job(held)

    def end(self, reason: str | None = None) -> None:
        """End every lane; a `reason` is reported first, as `EngineStopped`. No event follows."""
        with self._lock:
            try:
                if reason is not None:
                    self._tell(EngineStopped(reason))
            finally:
                self._ended = True
                self._notify_all()

    # --- The prepare lane ------------------------------------------------------------------------------

    def next_job(self) -> HeldJob[RowT] | None:
        """Wait for a job to prepare; None after the end."""
        with self._lock:
            self._job_queued.wait_for(lambda: self._ended or self._may_enter(Lane.PREPARE))
            if self._ended:
                return None
            self._turns.enter(Lane.PREPARE)
            return self._to_prepare.popitem(last=False)[1]

    def prepared(self, held: HeldJob[RowT], outcome: PreparedRows[RowT] | RenderFault, seconds: float) -> None:
        """Record the outcome of a job in the prepare lane."""
        with self._lock:
            self._leave(Lane.PREPARE)
            if held.over:
                return
            if isinstance(outcome, RenderFault):
                self._fail(held, outcome)
                return
            held.receive(outcome.rows)
            key = outcome.rows[0].batch_key
            self._tell(
                JobPrepared(
                    held.job.job_id,
                    key,
                    seconds * 1000,
                    warnings=outcome.warnings,
                    found=outcome.found,
                    prompt=outcome.prompt,
                    caps=self._caps(key),
                    adapters=outcome.adapters,
                )
            )

    # --- The denoise lane ------------------------------------------------------------------------------

    @property
    def rows_on_device(self) -> tuple[RowT, ...]:
        """The rows of the next step. Only for the denoise lane, the only one that changes them."""
        return self._batch.device_rows

    def let_join(self) -> bool:
        """Wait at the boundary until there is something to step, and let rows join; false after the end."""
        with self._lock:
            while not self._ended:
                # Waiting here while pictures are finished more slowly than they are denoised bounds the memory that
                # finished rows hold.
                if self._may_enter(Lane.DENOISE):
                    self._batch.board(self._clock())
                    if self._batch.rows:
                        self._turns.enter(Lane.DENOISE)
                        return True
                    self._work_gone()
                else:
                    self._boundary_open.wait()
            return False

    def stepped(self, seconds: float) -> None:
        """Record a completed step: count it, hand complete rows to the finish lane, report it."""
        with self._lock:
            self._leave(Lane.DENOISE)
            now, before = self._clock(), self._stepped_at
            self._stepped_at = now
            boundary = self._batch.stepped(seconds, now)
            if boundary.retired:
                self._hand_over(boundary.retired)
            if self._batch.previewed and self._previews.add(self._batch.previewed, now):
                self._rows_retired.notify()
            if boundary.row_ids:
                self._tell(
                    StepDone(
                        boundary.batch_key,
                        boundary.row_ids,
                        tuple(held.row_id for held in boundary.retired),
                        seconds,
                        boundary.joined,
                        boundary.shallow,
                        boundary.steps_done,
                        idle_s=None if before is None else max(0.0, now - seconds - before),
                    )
                )

    def step_failed(self, fault: RenderFault) -> None:
        """Record a failed step: its rows are prepared again, unchanged."""
        with self._lock:
            self._leave(Lane.DENOISE)
            self._stepped_at = None
            shared_by = len(self._batch.rows)
            put_back = self._batch.put_back()
            if put_back:
                self._tell(StepFailed(put_back, fault, dropped=shared_by - len(put_back)))

    # --- The finish lane -------------------------------------------------------------------------------

    def next_finished(self) -> FinishedRows[RowT] | HeldRow[RowT] | None:
        """Wait for rows to decode or, if there are none, for a row that wants a preview; None after the end.

        The rows to decode may belong to a job that has ended: `finished` expects them back all the same.
        """
        with self._lock:
            while not self._ended:
                if self._may_enter(Lane.FINISH):
                    self._turns.enter(Lane.FINISH)
                    return self._to_finish.popleft()
                # A preview is a small matrix product. It waits for no turn unless weights move with the turns.
                if not self._turns.lasting and (due := self._previews.take(self._clock())) is not None:
                    return due
                self._rows_retired.wait()
            return None

    def previewed(self, held: HeldRow[RowT], outcome: Preview | RenderFault | None) -> None:
        """Record the outcome of a preview. After a failed one the job gets no more previews, and is not failed."""
        with self._lock:
            if isinstance(outcome, RenderFault):
                held.job.preview_due_at = None
            elif outcome is not None and not held.job.over:
                self._tell(JobPreview(held.row_id.job_id, outcome))

    def finished_beside(self, rows: FinishedRows[RowT], rows_max: int) -> tuple[FinishedRows[RowT], ...]:
        """Take the rows queued behind `rows` that can be decoded with them: same key, up to `rows_max` rows in all."""
        key, count = rows[0].row.batch_key, len(rows)
        beside: list[FinishedRows[RowT]] = []
        with self._lock:
            while not self._ended and self._to_finish:
                following = self._to_finish[0]
                count += len(following)
                if count > rows_max or following[0].row.batch_key != key:
                    break
                beside.append(self._to_finish.popleft())
        return tuple(beside)

    def finished(
        self, rows: FinishedRows[RowT], outcome: Sequence[RenderedImage] | RenderFault, seconds: float
    ) -> None:
        """Record the outcome of rows in the finish lane."""
        with self._lock:
            self._leave(Lane.FINISH)
            self._unfinished_rows -= len(rows)
            self._boundary_open.notify()
            job = rows[0].job
            if job.over:
                return
            if isinstance(outcome, RenderFault):
                self._fail(job, outcome)
            elif job.took_images(rows, outcome, seconds):
                rendered = job.rendered()
                self._end_job(job)
                self._tell(rendered)

    # --- With the lock held ----------------------------------------------------------------------------

    def _cap(self, key: BatchKey) -> int:
        caps = self._caps(key)
        return min(self._caps_set.get(key, caps.paying), caps.best)

    def _may_enter(self, lane: Lane) -> bool:
        work = {
            Lane.PREPARE: bool(self._to_prepare),
            Lane.DENOISE: self._unfinished_rows <= self._finish_queue_rows_max and not self._batch.idle,
            Lane.FINISH: bool(self._to_finish),
        }
        return self._turns.may_enter(lane, work)

    def _leave(self, lane: Lane) -> None:
        self._turns.leave(lane)
        self._work_gone()

    def _work_gone(self) -> None:
        # The next lane waits for its turn on a condition of its own, which may never be notified of new work.
        if self._turns.shared:
            self._notify_all()

    def _notify_all(self) -> None:
        for condition in (self._job_queued, self._boundary_open, self._rows_retired):
            condition.notify_all()

    def _find_prepared(self, row_id: RowId) -> HeldRow[RowT]:
        rows = self._jobs[row_id.job_id].rows
        if not 0 <= row_id.image < len(rows):
            raise ValueError(f"job {row_id.job_id!r} has {len(rows)} prepared rows: there is no row {row_id.image}")
        held = rows[row_id.image]
        if held.stage is not RowStage.PREPARED:
            raise ValueError(
                f"row {row_id.image} of job {row_id.job_id!r} was already admitted: it is {held.stage.value}"
            )
        return held

    def _hand_over(self, retired: Sequence[HeldRow[RowT]]) -> None:
        by_job: dict[HeldJob[RowT], list[HeldRow[RowT]]] = {}
        for held in retired:
            by_job.setdefault(held.job, []).append(held)
        for rows in by_job.values():
            self._to_finish.append(tuple(sorted(rows, key=lambda held: held.row_id.image)))
        self._unfinished_rows += len(retired)
        self._rows_retired.notify()

    def _fail(self, held: HeldJob[RowT], fault: RenderFault) -> None:
        self._end_job(held)
        self._tell(JobFailed(held.job.job_id, fault))

    def _end_job(self, held: HeldJob[RowT]) -> None:
        del self._jobs[held.job.job_id]
        self._to_prepare.pop(held.job.job_id, None)
        self._batch.discard(held)
        held.end()
        self._work_gone()

    def _tell(self, event: EngineEvent) -> None:
        if self._listener is not None and not self._ended:
            self._listener(event)
