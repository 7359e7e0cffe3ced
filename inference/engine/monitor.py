"""The one lock between an engine's callers and its three lanes.

A monitor in Hoare's sense: every method takes the lock, changes what `darkroom.inference.engine.step_batch` holds, and
sends the events of that change before it lets go, so that what was said is always what is so, and nothing is said of a
job once `drop` has returned. No device is called here: a lane asks for work, does it outside, brings back
what came of it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Generic

from darkroom.inference.contract import (
    BatchKey,
    EngineEvent,
    EngineStopped,
    JobFailed,
    JobId,
    JobPrepared,
    JobPreview,
    Listener,
    Prepared,
    Preview,
    RenderedImage,
    RenderFault,
    RenderJob,
    RowId,
    RowT,
    StepDone,
    StepFailed,
)
from darkroom.inference.engine.previews import PreviewWishes
from darkroom.inference.engine.step_batch import HeldJob, HeldRow, Stage, StepBatch
from darkroom.inference.engine.turns import Lane, Series, Turns

FinishedRows = tuple[HeldRow[RowT], ...]
"""Complete rows of one job that left the device at one boundary, in order of their index."""


class EngineFullError(RuntimeError):
    """The engine holds as many jobs as it may: admit or drop some, then prepare more."""


class LaneMonitor(Generic[RowT]):
    """What callers and lanes share, and the waiting for it.

    `next_job`, `let_join` and `next_finished` block until there is work or the monitor has ended. After `end`
    no event is sent and every call is without effect.
    """

    def __init__(
        self,
        *,
        rows_max: int,
        finish_queue_rows_max: int,
        jobs_max: int,
        preview_interval_s: float,
        clock: Callable[[], float],
        cap: Callable[[BatchKey], int] | None = None,
    ) -> None:
        """Bounds and clock as in `loop.LaneEngine`; `cap` as in `step_batch.StepBatch`."""
        self._finish_queue_rows_max = finish_queue_rows_max
        self._jobs_max = jobs_max
        self._clock = clock
        self._listener: Listener | None = None
        # Reentrant, because a listener may call prepare, admit and drop. It guards all that follows.
        self._lock = threading.RLock()
        self._job_queued = threading.Condition(self._lock)
        self._boundary_open = threading.Condition(self._lock)
        self._rows_retired = threading.Condition(self._lock)
        self._ended = False
        self._jobs: dict[JobId, HeldJob[RowT]] = {}
        self._to_prepare: OrderedDict[JobId, HeldJob[RowT]] = OrderedDict()
        self._batch: StepBatch[RowT] = StepBatch(rows_max, cap)
        self._to_finish: deque[FinishedRows[RowT]] = deque()
        self._unfinished_rows = 0
        self._turns = Turns(Series.NONE)
        self._wishes: PreviewWishes[RowT] = PreviewWishes(preview_interval_s)

    # --- Callers ---------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Send events to `listener` from now on. Raises `RuntimeError` when there is one, or after the end."""
        with self._lock:
            if self._listener is not None or self._ended:
                raise RuntimeError("an engine starts once: make another one")
            self._listener = listener

    def fit(self, series: Series) -> None:
        """Keep to what the loaded device can hold at once. Before any lane starts."""
        with self._lock:
            self._turns = Turns(series)

    def prepare(self, job: RenderJob) -> None:
        """As `LaneEngine.prepare`."""
        with self._lock:
            if self._ended:
                return
            if job.job_id in self._jobs:
                raise ValueError(f"job {job.job_id!r} is in the engine already: drop it before preparing it again")
            if len(self._jobs) >= self._jobs_max:
                raise EngineFullError(f"the engine holds {len(self._jobs)} jobs, its limit: admit or drop some first")
            self._jobs[job.job_id] = self._to_prepare[job.job_id] = HeldJob(job)
            self._job_queued.notify()

    def admit(self, rows: Sequence[RowId]) -> None:
        """As `LaneEngine.admit`."""
        with self._lock:
            if self._ended:
                return
            admitted = {row_id: self._find_prepared(row_id) for row_id in rows if row_id.job_id in self._jobs}
            for held in admitted.values():
                self._batch.admit(held)
            if admitted:
                self._boundary_open.notify()

    def drop(self, job_id: JobId) -> None:
        """As `LaneEngine.drop`."""
        with self._lock:
            held = self._jobs.get(job_id)
            if held is not None:
                self._end_job(held)

    def end(self, reason: str | None = None) -> None:
        """Send every lane home; a `reason` is told first, as `EngineStopped`."""
        with self._lock:
            try:
                if reason is not None:
                    self._tell(EngineStopped(reason))
            finally:
                self._ended = True
                self._notify_all()

    # --- The prepare lane ------------------------------------------------------------------------------

    def next_job(self) -> HeldJob[RowT] | None:
        """Wait for a job to prepare."""
        with self._lock:
            self._job_queued.wait_for(lambda: self._ended or self._may_go(Lane.PREPARE))
            if self._ended:
                return None
            self._turns.go(Lane.PREPARE)
            return self._to_prepare.popitem(last=False)[1]

    def prepared(self, held: HeldJob[RowT], outcome: Prepared[RowT] | RenderFault, seconds: float) -> None:
        """Take what became of a job in the prepare lane."""
        with self._lock:
            self._come(Lane.PREPARE)
            if held.over:
                return
            if isinstance(outcome, RenderFault):
                self._fail(held, outcome)
                return
            held.receive(outcome.rows)
            batch_key = outcome.rows[0].batch_key
            cap = self._batch.cap(batch_key)
            self._tell(
                JobPrepared(held.job.job_id, batch_key, seconds * 1000, outcome.warnings, found=outcome.found, cap=cap)
            )

    # --- The denoise lane ------------------------------------------------------------------------------

    @property
    def rows_on_device(self) -> tuple[RowT, ...]:
        """For the denoise lane alone, the only one that changes them."""
        return self._batch.device_rows

    def let_join(self) -> bool:
        """Wait at the boundary until there is something to step, and let rows join; false after the end."""
        with self._lock:
            while not self._ended:
                # Waiting here when pictures are finished slower than they are denoised is what bounds the
                # memory that finished rows hold.
                if self._may_go(Lane.DENOISE):
                    self._batch.board(self._clock())
                    if self._batch.rows:
                        self._turns.go(Lane.DENOISE)
                        return True
                    self._work_gone()
                else:
                    self._boundary_open.wait()
            return False

    def stepped(self, seconds: float) -> None:
        """After a step: count it, hand complete rows to the finish lane, say so."""
        with self._lock:
            self._come(Lane.DENOISE)
            now = self._clock()
            boundary = self._batch.stepped(seconds, now)
            if boundary.retired:
                self._hand_over(boundary.retired)
            if self._batch.shown and self._wishes.add(self._batch.shown, now):
                self._rows_retired.notify()
            if boundary.row_ids:
                retired = tuple(held.row_id for held in boundary.retired)
                self._tell(
                    StepDone(
                        boundary.batch_key, boundary.row_ids, retired, seconds, boundary.joined, boundary.steps_done
                    )
                )

    def step_failed(self, fault: RenderFault) -> None:
        """After a step that failed: its rows are prepared again, as they were before it."""
        with self._lock:
            self._come(Lane.DENOISE)
            shared_by = len(self._batch.rows)
            put_back = self._batch.put_back()
            if put_back:
                self._tell(StepFailed(put_back, fault, dropped=shared_by - len(put_back)))

    # --- The finish lane -------------------------------------------------------------------------------

    def next_finished(self) -> FinishedRows[RowT] | HeldRow[RowT] | None:
        """Wait for rows to decode, or where there are none, for a row to make a preview of.

        Rows of a job that is over are among the former: `finished` wants them back.
        """
        with self._lock:
            while not self._ended:
                if self._may_go(Lane.FINISH):
                    self._turns.go(Lane.FINISH)
                    return self._to_finish.popleft()
                # A preview is a small product of matrices and waits for no turn, where no weights come and go with it.
                if not self._turns.lasting and (wished := self._wishes.take(self._clock())) is not None:
                    return wished
                self._rows_retired.wait()
            return None

    def previewed(self, held: HeldRow[RowT], outcome: Preview | RenderFault | None) -> None:
        """Take what became of a preview. One that failed is the last that is tried of its job, and no fault of it."""
        with self._lock:
            if isinstance(outcome, RenderFault):
                held.job.preview_due_at = None
            elif outcome is not None and not held.job.over:
                self._tell(JobPreview(held.row_id.job_id, outcome))

    def finished_beside(self, rows: FinishedRows[RowT], rows_max: int) -> tuple[FinishedRows[RowT], ...]:
        """Take what waits behind `rows` and can be decoded with them: of their key, up to `rows_max` rows in all."""
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
        """Take what became of rows in the finish lane."""
        with self._lock:
            self._come(Lane.FINISH)
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

    def _may_go(self, lane: Lane) -> bool:
        return self._turns.may_go(lane, self._work())

    def _work(self) -> Mapping[Lane, bool]:
        return {
            Lane.PREPARE: bool(self._to_prepare),
            Lane.DENOISE: self._unfinished_rows <= self._finish_queue_rows_max and not self._batch.idle,
            Lane.FINISH: bool(self._to_finish),
        }

    def _come(self, lane: Lane) -> None:
        self._turns.come(lane)
        self._work_gone()

    def _work_gone(self) -> None:
        # The next lane waits for its turn on a condition of its own, for which nothing new may ever come.
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
        if held.stage is not Stage.PREPARED:
            raise ValueError(
                f"row {row_id.image} of job {row_id.job_id!r} was admitted already: it is {held.stage.value}"
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
