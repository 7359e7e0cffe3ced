"""Drives any device in three lanes, so that preparing and finishing never hold up denoising.

Where the device cannot hold all lanes at once (`Device.series`), they take turns, by the rules of
`darkroom.inference.engine.turns`.

Each lane is a thread that asks `darkroom.inference.engine.monitor` for work, calls the device, and brings back what
came of it. What a row goes through:

                 prepare lane          admit()            boundary
    prepare() ─> ............ ─> PREPARED ─> JOINING ──────────────> ON_DEVICE ──┐ step
                      │             ^                                 │  │  ^────┘
                      │             └──────────── step failed ────────┘  │ last step
                      v                                                  v
                  JobFailed         JobFailed <──── finish lane <──── RETIRED
                                                        │
                                                        └─> JobRendered, once all rows of the job are in

From every place `drop()` makes the job over: its rows leave the device at the next boundary and the lanes pass
them by. A job id may then be prepared again at once: it is another job to the lanes. The table of moves
is in `darkroom.inference.engine.step_batch`.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

import structlog

from darkroom.inference.contract import (
    BatchKey,
    CacheCounts,
    Device,
    DeviceLost,
    Engine,
    FaultKind,
    JobId,
    Listener,
    ModelInfo,
    Prepared,
    RenderedImage,
    RenderFault,
    RenderJob,
    RowId,
    RowT,
)
from darkroom.inference.engine.monitor import EngineFullError, FinishedRows, LaneMonitor
from darkroom.inference.engine.step_batch import HeldRow
from darkroom.inference.planning.profile import DeviceProfile
from darkroom.schemas.errors import ErrorCode, bounded

__all__ = ["Calibrating", "EngineFullError", "LaneEngine"]

TRACEBACK_CHARACTERS_MAX = 8000
"""In the log: some fifty frames, the innermost ones."""
CAPS_MAX = 1024
"""Caps remembered by batch key: more sizes than anybody asks for, and working one out again takes microseconds."""

Calibrating = Callable[[Device[Any]], DeviceProfile | None]
"""Finds or measures the profile of a loaded device; None where there is none."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_log = structlog.get_logger(__name__)


class LaneEngine(Engine, Generic[RowT]):
    """`darkroom.inference.contract.Engine` over one device.

    Invariants:

    - Rows join and leave at step boundaries only; rows that share a step have one `BatchKey`.
    - A job ends in one of `JobRendered`, `JobFailed` and `drop`, and nothing is said of it afterwards.
    - A failed step leaves its rows prepared, with the steps they had done.
    - Finished rows wait in a bounded queue; when it is full the denoise lane waits, and only then.
    - No lane ends in silence: `EngineStopped` is the last event of an engine that was not closed.
    """

    def __init__(
        self,
        device: Device[RowT],
        *,
        rows_max: int,
        decode_rows_max: int = 4,
        finish_queue_rows_max: int = 16,
        jobs_max: int = 4096,
        preview_interval_s: float = 0.5,
        close_wait_s: float = 60.0,
        clock: Callable[[], float] = time.perf_counter,
        calibration: Calibrating | None = None,
    ) -> None:
        """Make an engine that is not started.

        `rows_max`: rows that may share a step; further admitted rows wait for room. Fewer where the device's memory
        does not hold so many, or where the profile says that fewer pay.
        `decode_rows_max`: rows that may be decoded together: on a CPU one alone takes up to 1.6 times as long, and
        eight gain nothing more.
        `finish_queue_rows_max`: the denoise lane waits while more finished rows than this are not decoded. Two
        full batches of eight by default: enough to smooth over a slow picture, little memory as latents go.
        `jobs_max`: jobs held at one time, whatever their stage; above it `prepare` raises `EngineFullError`.
        The worker's own bounds are far lower: this one turns a leak into an error.
        `preview_interval_s`: the least time between two previews of a job. They are made in the finish lane
        when no finished row waits, so they never hold up a step.
        `close_wait_s`: how long `close` waits for all lanes together: above the slowest step and decode.
        `clock`: seconds from any origin, never going back.
        `calibration`: gives the loaded device's profile (`darkroom.inference.planning.calibration.Calibration`);
        without one every batch key's cap is `rows_max`.
        Raises `ValueError` for a bound that is not positive.
        """
        bounds = {
            "rows_max": rows_max,
            "decode_rows_max": decode_rows_max,
            "finish_queue_rows_max": finish_queue_rows_max,
            "jobs_max": jobs_max,
        }
        for name, bound in bounds.items():
            if bound < 1:
                raise ValueError(f"{name} is {bound}: give a number above 0")
        self._device = device
        self._calibration = calibration
        self._profile: DeviceProfile | None = None
        self._rows_max = rows_max
        self._caps: dict[BatchKey, int] = {}
        self._decode_rows_max = decode_rows_max
        self._clock = clock
        self._close_wait_s = close_wait_s
        self._monitor: LaneMonitor[RowT] = LaneMonitor(
            rows_max=rows_max,
            finish_queue_rows_max=finish_queue_rows_max,
            jobs_max=jobs_max,
            preview_interval_s=preview_interval_s,
            clock=clock,
            cap=self._cap,
        )
        self._threads: tuple[threading.Thread, ...] = ()
        self._closing = threading.Lock()
        self._closed = False

    @property
    def info(self) -> ModelInfo:
        """The loaded model. Only after `start` returned."""
        return self._device.info

    @property
    def profile(self) -> DeviceProfile | None:
        """What the device was measured to take; None before `start` returned, and where it was not measured."""
        return self._profile

    def start(self, listener: Listener) -> None:
        """Load the device, find or measure its profile, and start the lanes.

        The listener is called from the lanes with the engine's lock held: it must return at once and wait
        for nothing. It may call `prepare`, `admit` and `drop`, but not `close`. Raises `ModelError`, and
        `RuntimeError` when the engine was started or closed before.
        """
        self._monitor.listen(listener)
        self._device.load()
        self._monitor.fit(self._device.series)
        if self._calibration is not None:
            self._profile = self._calibration(self._device)
        lanes = {"prepare": self._prepare, "denoise": self._denoise, "finish": self._finish}
        with self._closing:
            if self._closed:
                self._device.close()
                raise RuntimeError("the engine was closed while its model was loading")
            self._threads = tuple(
                threading.Thread(target=self._run, args=(name, lane), name=f"darkroom-{name}", daemon=True)
                for name, lane in lanes.items()
            )
            for thread in self._threads:
                thread.start()

    def prepare(self, job: RenderJob) -> None:
        """Queue a job for the prepare lane: answered by `JobPrepared` or `JobFailed`.

        Raises `ValueError` for a job id that the engine holds already and `EngineFullError` above `jobs_max`.
        Without effect once the engine has ended.
        """
        self._monitor.prepare(job)

    def admit(self, rows: Sequence[RowId]) -> None:
        """Let prepared rows join at the next step boundary, in this order.

        Rows of the key on the device join as room allows, before rows of other keys that were admitted
        earlier: whoever wants the key to change admits no more of the present one. Rows of jobs that are
        over are passed by, since that news may be under way. Raises `ValueError`, and admits none, for a
        row that its job does not have, that is not prepared, or that was admitted already.
        """
        self._monitor.admit(rows)

    def drop(self, job_id: JobId) -> None:
        """Forget a job wherever it is: nothing is said of it once this returned.

        A listener that hands events on to another thread may still have some in its hands. It tells
        incarnations apart by giving each a job id of its own.
        """
        self._monitor.drop(job_id)

    def rows_ceiling(self, batch_key: BatchKey) -> int | None:
        """Rows of this key that the device's memory holds in a step; None: no limit is known. Only after `start`."""
        return self._device.rows_ceiling(batch_key.latent_height, batch_key.latent_width)

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """The device's caches."""
        return self._device.cache_counts()

    def memory_bytes(self) -> Mapping[str, int]:
        """The device's memory."""
        return self._device.memory_bytes()

    def close(self) -> None:
        """Stop the lanes and free the device. Idempotent.

        No event is sent once this has begun. A lane that is still inside the device after `close_wait_s`
        is left to end with the process, and the device is then not freed under it.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self._monitor.end()
            deadline = time.monotonic() + self._close_wait_s
            for thread in self._threads:
                thread.join(max(deadline - time.monotonic(), 0.0))
            stuck = [thread.name for thread in self._threads if thread.is_alive()]
            if stuck:
                _log.warning("lanes_still_in_the_device", lanes=stuck, waited_s=self._close_wait_s)
            else:
                self._device.close()

    def _cap(self, key: BatchKey) -> int:
        """Rows of a key that may share a step. With the monitor's lock held."""
        cap = self._caps.get(key)
        if cap is None:
            if len(self._caps) >= CAPS_MAX:
                self._caps.clear()
            ceiling = self.rows_ceiling(key)
            cap = self._rows_max if ceiling is None else min(self._rows_max, ceiling)
            if self._profile is not None:
                cap = self._profile.cap(key.latent_height, key.latent_width, rows_max=cap)
            self._caps[key] = cap
        return cap

    # --- The lanes. A turn is a function of its own, so that no lane holds a job while it waits for the next.

    def _prepare(self) -> None:
        while self._prepare_one():
            pass

    def _prepare_one(self) -> bool:
        held = self._monitor.next_job()
        if held is None:
            return False
        began = self._clock()
        outcome = _attempt(self._prepared, held.job)
        self._monitor.prepared(held, outcome, self._clock() - began)
        return True

    def _denoise(self) -> None:
        while self._admit():
            fault, seconds = self._step()
            self._retire(fault, seconds)

    def _admit(self) -> bool:
        return self._monitor.let_join()

    def _step(self) -> tuple[RenderFault | None, float]:
        began = self._clock()
        fault = _attempt(self._device.step, self._monitor.rows_on_device)
        return fault, self._clock() - began

    def _retire(self, fault: RenderFault | None, seconds: float) -> None:
        if fault is None:
            self._monitor.stepped(seconds)
        else:
            self._monitor.step_failed(fault)

    def _finish(self) -> None:
        while self._finish_one():
            pass

    def _finish_one(self) -> bool:
        work = self._monitor.next_finished()
        if work is None:
            return False
        if isinstance(work, HeldRow):
            self._monitor.previewed(work, _attempt(self._device.preview, work.row))
        else:
            self._decode(work)
        return True

    def _decode(self, first: FinishedRows[RowT]) -> None:
        groups = (first, *self._monitor.finished_beside(first, self._decode_rows_max))
        began = self._clock()
        # Read without the lock, to save a decode where it can be saved; the monitor looks again.
        held_rows = [held for group in groups if not group[0].job.over for held in group]
        outcomes = dict(zip((id(held) for held in held_rows), self._decoded(held_rows), strict=True))
        share_s = (self._clock() - began) / max(1, len(held_rows))
        for group in groups:
            self._monitor.finished(group, _together([outcomes.get(id(held)) for held in group]), share_s * len(group))

    def _run(self, name: str, lane: Callable[[], None]) -> None:
        try:
            lane()
        except BaseException as error:
            reason = bounded(f"the {name} lane stopped: {_said_by(error)}")
            try:
                self._monitor.end(reason)
            finally:
                _log.critical("lane_stopped", lane=name, reason=reason, traceback=_traceback(error))

    # --- What the lanes ask of the device --------------------------------------------------------------

    def _prepared(self, job: RenderJob) -> Prepared[RowT]:
        prepared = self._device.prepare(job)
        if len(prepared.rows) != job.request.count:
            raise ValueError(f"the device made {len(prepared.rows)} rows for a job of {job.request.count}")
        return prepared

    def _decoded(self, held_rows: Sequence[HeldRow[RowT]]) -> list[RenderedImage | RenderFault]:
        outcomes: list[RenderedImage | RenderFault] = []
        rows = [held.row for held in held_rows]
        for start in range(0, len(rows), self._decode_rows_max):
            outcomes.extend(self._decoded_together(rows[start : start + self._decode_rows_max]))
        return outcomes

    def _decoded_together(self, rows: Sequence[RowT]) -> Sequence[RenderedImage | RenderFault]:
        outcome = _attempt(self._finished, rows)
        if not isinstance(outcome, RenderFault):
            return outcome
        if len(rows) == 1:
            return [outcome]
        # The decoder's memory grows with the rows, and a step may have held some of it a moment ago: what did not fit
        # together may fit one by one. Of any other fault it is not known whose it is.
        return [one for row in rows for one in self._decoded_together([row])]

    def _finished(self, rows: Sequence[RowT]) -> tuple[RenderedImage | RenderFault, ...]:
        outcomes = self._device.finish(rows)
        if len(outcomes) != len(rows):
            raise ValueError(f"the device made {len(outcomes)} pictures of {len(rows)} rows")
        return outcomes


def _together(outcomes: Sequence[RenderedImage | RenderFault | None]) -> tuple[RenderedImage, ...] | RenderFault:
    """A job's pictures, or its first fault. Rows that nobody decoded, their job being over, have neither."""
    for outcome in outcomes:
        if isinstance(outcome, RenderFault):
            return outcome
    return tuple(outcome for outcome in outcomes if isinstance(outcome, RenderedImage))


def _attempt(
    call: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result | RenderFault:
    """What a call into the device returned, or the fault that it raised.

    Being out of host memory, or without a device, is nobody's row: it ends the lane, and so does all that is no
    `Exception`.
    """
    try:
        return call(*args, **kwargs)
    except (MemoryError, DeviceLost):
        raise
    except Exception as error:
        return _fault_of(error)


def _fault_of(error: Exception) -> RenderFault:
    """The fault in an error that a device raised.

    A new object without traceback, cause or context: those hold the device's frames, and with them the
    tensors that a device which is out of memory needs back.
    """
    if isinstance(error, RenderFault):
        return RenderFault(error.kind, error.code, bounded(error.message))
    _log.error("device_error", error=_said_by(error), traceback=_traceback(error))
    return RenderFault(FaultKind.BATCH, ErrorCode.RENDER_FAILED, _said_by(error))


def _traceback(error: BaseException) -> str:
    """Its last frames as plain text: a log's own formatter may print what they hold, tensors and prompts included."""
    return "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS_MAX:]


def _said_by(error: BaseException) -> str:
    """Its type and message, cut to a length that fits an event: an error can quote whole tensors."""
    return bounded(f"{type(error).__name__}: {error}")
