"""Tracks every job and row of an engine, and decides which rows take the next step together and which get a preview.

The decisions of the lanes without their threads: nothing here locks, waits, reads a clock or calls a device.
`darkroom.inference.engine.monitor` holds the lock, and the lanes do the work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic

from darkroom.inference.contract import RowT
from darkroom.inference.types import (
    SHALLOW_SHARE,
    BatchKey,
    JobId,
    JobRendered,
    RenderedImage,
    RenderJob,
    RowId,
)


class RowStage(Enum):
    """The stage of a row. Rows of a job that has ended have none: their holder lets go of them."""

    PREPARED = "prepared"
    JOINING = "joining"
    ON_DEVICE = "on_device"
    RETIRED = "retired"


class Move(Enum):
    """A transition of a row from one stage to the next."""

    ADMIT = "admit"
    BOARD = "board"
    PUT_BACK = "put_back"
    RETIRE = "retire"


NEXT_STAGE: dict[tuple[RowStage, Move], RowStage] = {
    (RowStage.PREPARED, Move.ADMIT): RowStage.JOINING,
    (RowStage.JOINING, Move.BOARD): RowStage.ON_DEVICE,
    (RowStage.ON_DEVICE, Move.PUT_BACK): RowStage.PREPARED,
    (RowStage.ON_DEVICE, Move.RETIRE): RowStage.RETIRED,
}
"""The lawful transitions; `HeldRow.move` refuses all others."""


class HeldRow(Generic[RowT]):
    """A device's row with its job and its stage."""

    __slots__ = ("full_steps", "job", "row", "row_id", "stage")

    def __init__(self, job: HeldJob[RowT], row: RowT, row_id: RowId) -> None:
        self.job = job
        self.row = row
        self.row_id = row_id
        self.stage = RowStage.PREPARED
        self.full_steps = 0
        """The row's, up to the last boundary."""

    def took_full_step(self) -> bool:
        """Return True if the step since the last boundary was full. Call it once a step."""
        before, self.full_steps = self.full_steps, self.row.full_steps
        return self.full_steps > before

    def move(self, move: Move) -> None:
        """Take a transition. Raises `ValueError`, and changes nothing, if it is not lawful from the row's stage."""
        following = NEXT_STAGE.get((self.stage, move))
        if following is None:
            name = f"row {self.row_id.image} of job {self.row_id.job_id!r}"
            raise ValueError(f"{name} is {self.stage.value}: it cannot take the move {move.value}")
        self.stage = following


@dataclass(slots=True, eq=False)
class HeldJob(Generic[RowT]):
    """One incarnation of a job id, from `prepare` until it is rendered, failed or dropped.

    Lanes compare objects, not ids. A job that is prepared again under an old id is another `HeldJob`, so work that a
    lane still does for the old one cannot affect it.
    """

    job: RenderJob
    rows: tuple[HeldRow[RowT], ...] = ()
    over: bool = False
    """True once the job was rendered, failed or dropped: no lane works for it and no event mentions it."""
    images: dict[int, RenderedImage] = field(default_factory=dict)
    joined_at: float | None = None
    left_at: float = 0.0
    decode_seconds: float = 0.0
    device_seconds: float = 0.0
    rows_min: int = 0
    rows_max: int = 0
    preview_due_at: float | None = 0.0
    """The earliest time of the next preview; None once a preview has failed, because it is not worth retrying."""

    def receive(self, rows: Sequence[RowT]) -> None:
        """Take the rows that the prepare lane made, in the order of their images."""
        self.rows = tuple(HeldRow(self, row, RowId(self.job.job_id, index)) for index, row in enumerate(rows))

    def took_step(self, shared_by: int, share_seconds: float) -> None:
        """Count a step of one of the job's rows, shared by `shared_by` rows including its own."""
        self.device_seconds += share_seconds
        self.rows_max = max(self.rows_max, shared_by)
        self.rows_min = min(self.rows_min or shared_by, shared_by)

    def took_images(self, rows: Sequence[HeldRow[RowT]], images: Sequence[RenderedImage], seconds: float) -> bool:
        """Keep the pictures of `rows`, and return true once the job has all of its pictures."""
        self.decode_seconds += seconds
        for held, image in zip(rows, images, strict=True):
            self.images[held.row_id.image] = image
        return len(self.images) == len(self.rows)

    def rendered(self) -> JobRendered:
        """Return the event of a job that has all of its pictures."""
        joined_at = self.left_at if self.joined_at is None else self.joined_at
        return JobRendered(
            job_id=self.job.job_id,
            images=tuple(self.images[index] for index in sorted(self.images)),
            denoise_ms=(self.left_at - joined_at) * 1000,
            decode_ms=self.decode_seconds * 1000,
            device_seconds=self.device_seconds,
            rows_min=self.rows_min,
            rows_max=self.rows_max,
            full_steps=max((held.full_steps for held in self.rows), default=0),
        )

    def end(self) -> None:
        """Mark the job as ended and let go of its rows, and with them of its memory on the device."""
        self.over = True
        self.rows = ()


@dataclass(frozen=True, slots=True)
class Boundary(Generic[RowT]):
    """The outcome of a step, without the rows of jobs that have ended."""

    batch_key: BatchKey
    row_ids: tuple[RowId, ...]
    """The rows that took the step."""
    retired: tuple[HeldRow[RowT], ...]
    """The rows among them that are complete and have left."""
    joined: int
    steps_done: dict[JobId, int]
    shallow: int = 0
    """How many of the rows took a shallow step."""


class StepBatch(Generic[RowT]):
    """The rows on the device and the rows waiting to join them.

    Invariants:

    - At most `cap(key)` rows are on the device, all of one `BatchKey`.
    - Rows of one key board in the order of their admission.
    - Rows board only beside a full step, if there are rows on the device: a row's first step is full, and a full
      forward costs less a row the more share it. Waiting costs shallow steps, the shortest there are, and ends with the
      first row on the device whose next step is full.
    - The key changes only when the device is empty, and then to that of the row admitted first.
    - `rows` changes at boundaries only: in `board`, `stepped` and `put_back`.
    """

    def __init__(
        self, cap: Callable[[BatchKey], int], shallow_share: Callable[[BatchKey], float] = lambda _key: SHALLOW_SHARE
    ) -> None:
        """Make an empty batch. `cap` returns how many rows of a key may share a step, and `shallow_share` the time of a
        shallow step as a share of a full one's."""
        self._cap = cap
        self._shallow_share = shallow_share
        self.rows: tuple[HeldRow[RowT], ...] = ()
        self.device_rows: tuple[RowT, ...] = ()
        """The same rows as the device's own objects."""
        self._row_ids: tuple[RowId, ...] = ()
        self._told_of: tuple[HeldRow[RowT], ...] = ()
        self.previewed: tuple[HeldRow[RowT], ...] = ()
        """The rows among them that want previews: the first images of jobs that asked for some."""
        self._joining: dict[BatchKey, deque[tuple[int, HeldRow[RowT]]]] = {}
        self._admissions = 0
        self._joined = 0

    @property
    def idle(self) -> bool:
        """True if there are no rows to step and none waiting to join."""
        return not self.rows and not self._joining

    def admit(self, row: HeldRow[RowT]) -> None:
        """Queue a prepared row for the next boundary with room for it."""
        row.move(Move.ADMIT)
        self._admissions += 1
        self._joining.setdefault(row.row.batch_key, deque()).append((self._admissions, row))

    def discard(self, job: HeldJob[RowT]) -> None:
        """Remove the job's rows from the queue. Those on the device leave at the next boundary, because the job is
        over."""
        for key in {held.row.batch_key for held in job.rows if held.stage is RowStage.JOINING}:
            self._requeue(key, deque(entry for entry in self._joining[key] if entry[1].job is not job))

    def board(self, now: float) -> None:
        """Let go, at a boundary, of rows whose job is over, then fill up from the queue."""
        staying = [held for held in self.rows if not held.job.over]
        before = len(staying)
        key = staying[0].row.batch_key if staying else self._oldest_key()
        queue = self._joining.get(key) if key is not None else None
        aligned = not staying or any(held.row.next_is_full for held in staying)
        if key is not None and queue is not None and aligned:
            cap = self._cap(key)
            while queue and len(staying) < cap:
                _, held = queue.popleft()
                held.move(Move.BOARD)
                if held.job.joined_at is None:
                    held.job.joined_at = now
                staying.append(held)
            self._requeue(key, queue)
        self._joined = len(staying) - before
        if self._joined or before < len(self.rows):
            self._set(staying)

    def stepped(self, seconds: float, now: float) -> Boundary[RowT]:
        """Count a step of all `rows` that took `seconds`, and let complete rows leave."""
        shared_by = len(self.rows)
        share = self._shallow_share(self.rows[0].row.batch_key) if self.rows else 1.0
        weights = [1.0 if held.took_full_step() else share for held in self.rows]
        whole = sum(weights)
        complete, over, shallow = False, False, 0
        for held, weight in zip(self.rows, weights, strict=True):
            held.job.took_step(shared_by, seconds * weight / whole)
            complete = complete or held.row.steps_done >= held.row.steps_total
            over = over or held.job.over
            shallow += weight < 1 and not held.job.over
        batch_key, row_ids = self.rows[0].row.batch_key, self._row_ids
        if over:
            row_ids = tuple(held.row_id for held in self.rows if not held.job.over)
        steps_done = self._steps_done() if self._told_of else {}
        retired = self._retire(now) if complete else ()
        return Boundary(batch_key, row_ids, retired, self._joined, steps_done, shallow)

    def put_back(self) -> tuple[RowId, ...]:
        """Return all rows of a failed step to `PREPARED`, and give the ids of those whose job is not over."""
        leaving = [held for held in self.rows if not held.job.over]
        for held in leaving:
            held.move(Move.PUT_BACK)
        self._set([])
        return tuple(held.row_id for held in leaving)

    def _retire(self, now: float) -> tuple[HeldRow[RowT], ...]:
        complete = [held for held in self.rows if held.row.steps_done >= held.row.steps_total]
        self._set([held for held in self.rows if held.row.steps_done < held.row.steps_total])
        retired = tuple(held for held in complete if not held.job.over)
        for held in retired:
            held.move(Move.RETIRE)
            held.job.left_at = now
        return retired

    def _steps_done(self) -> dict[JobId, int]:
        slowest: dict[JobId, int] = {}
        for held in self._told_of:
            if not held.job.over:
                steps_done = held.row.steps_done
                slowest[held.row_id.job_id] = min(steps_done, slowest.get(held.row_id.job_id, steps_done))
        return slowest

    def _oldest_key(self) -> BatchKey | None:
        return min(self._joining, key=lambda key: self._joining[key][0][0], default=None)

    def _requeue(self, key: BatchKey, queue: deque[tuple[int, HeldRow[RowT]]]) -> None:
        if queue:
            self._joining[key] = queue
        else:
            del self._joining[key]

    def _set(self, rows: Sequence[HeldRow[RowT]]) -> None:
        # Derived here, when the rows change, because every step asks for it.
        self.rows = tuple(rows)
        self.device_rows = tuple(held.row for held in rows)
        self._row_ids = tuple(held.row_id for held in rows)
        self._told_of = tuple(held for held in rows if held.job.job.progress != "none")
        self.previewed = tuple(
            held for held in self._told_of if held.job.job.progress == "previews" and held.row_id.image == 0
        )


class PreviewQueue(Generic[RowT]):
    """The rows whose preview is due, at most one a job, the longest waiting first.

    Previews are lossy by contract. The finish lane makes them only while no finished row waits, and a row leaves the
    queue with its last step, because the picture itself follows then. So the queue is never longer than the batch.
    """

    def __init__(self, interval_s: float) -> None:
        """Make an empty queue. `interval_s`: the least time between two previews of one job."""
        self._interval_s = interval_s
        self._due: dict[HeldJob[RowT], HeldRow[RowT]] = {}

    def add(self, rows: Sequence[HeldRow[RowT]], now: float) -> bool:
        """Queue those of `rows`, which just took a step, whose preview is due; return true if any row waits."""
        for held in rows:
            due_at = held.job.preview_due_at
            if due_at is not None and now >= due_at and not held.job.over:
                self._due.setdefault(held.job, held)
        return bool(self._due)

    def take(self, now: float) -> HeldRow[RowT] | None:
        """Take the first row that is still on the device; its job's next preview is due an interval from `now`."""
        while self._due:
            job = next(iter(self._due))
            held = self._due.pop(job)
            if held.stage is RowStage.ON_DEVICE and not job.over:
                job.preview_due_at = now + self._interval_s
                return held
        return None
