"""The three loops that call the device, so that preparing and finishing never hold up denoising.

Each lane is a thread that takes work from the monitor (`darkroom.inference.engine.monitor`), calls the device with it,
and brings back the outcome. If the device cannot hold all lanes at once (`Device.series`), the monitor lets them in by
turns (`darkroom.inference.engine.turns`).
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Generic, ParamSpec, TypeVar

import structlog

from darkroom.inference.contract import Device, PreparedRows, RowT
from darkroom.inference.engine.monitor import FinishedRows, LaneMonitor
from darkroom.inference.engine.step_batch import HeldRow
from darkroom.inference.types import DeviceLost, FaultKind, RenderedImage, RenderFault, RenderJob
from darkroom.schemas.errors import ErrorCode, bounded

TRACEBACK_CHARACTERS_MAX = 8000
"""Length of a traceback in the log: some fifty frames, the innermost ones."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_log = structlog.get_logger(__name__)


class Lanes(Generic[RowT]):
    """The threads of one engine. A failure that belongs to no row ends the engine."""

    def __init__(
        self, device: Device[RowT], monitor: LaneMonitor[RowT], *, decode_rows_max: int, clock: Callable[[], float]
    ) -> None:
        """Make the lanes of an engine without starting them. The bound and the clock are the engine's."""
        self._device = device
        self._monitor = monitor
        self._decode_rows_max = decode_rows_max
        self._clock = clock
        self._threads: tuple[threading.Thread, ...] = ()

    def start(self) -> None:
        """Start the three threads."""
        lanes = {"prepare": self._prepare, "denoise": self._denoise, "finish": self._finish}
        self._threads = tuple(
            threading.Thread(target=self._run, args=(name, lane), name=f"darkroom-{name}", daemon=True)
            for name, lane in lanes.items()
        )
        for thread in self._threads:
            thread.start()

    def join(self, wait_s: float) -> list[str]:
        """Wait up to `wait_s` seconds for all threads together, and return the names of those still running."""
        deadline = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))
        return [thread.name for thread in self._threads if thread.is_alive()]

    def _run(self, name: str, lane: Callable[[], bool]) -> None:
        try:
            # One turn is one call, so that a lane keeps no reference to a job while it waits for the next one.
            while lane():
                pass
        except BaseException as error:
            reason = bounded(f"the {name} lane stopped: {_said_by(error)}")
            try:
                self._monitor.end(reason)
            finally:
                _log.critical("lane_stopped", lane=name, reason=reason, traceback=_traceback(error))

    # --- One turn of each lane: false once the engine has ended ----------------------------------------

    def _prepare(self) -> bool:
        held = self._monitor.next_job()
        if held is None:
            return False
        began = self._clock()
        outcome = _attempt(self._prepared, held.job)
        self._monitor.prepared(held, outcome, self._clock() - began)
        return True

    def _denoise(self) -> bool:
        if not self._monitor.let_join():
            return False
        began = self._clock()
        fault = _attempt(self._device.step, self._monitor.rows_on_device)
        if fault is None:
            self._monitor.stepped(self._clock() - began)
        else:
            self._monitor.step_failed(fault)
        return True

    def _finish(self) -> bool:
        work = self._monitor.next_finished()
        if work is None:
            return False
        if isinstance(work, HeldRow):
            self._monitor.previewed(work, _attempt(self._device.preview, work.row))
        else:
            self._decode(work)
        return True

    # --- Calls into the device -------------------------------------------------------------------------

    def _prepared(self, job: RenderJob) -> PreparedRows[RowT]:
        prepared = self._device.prepare(job)
        if len(prepared.rows) != job.request.count:
            raise ValueError(f"the device made {len(prepared.rows)} rows for a job of {job.request.count}")
        return prepared

    def _decode(self, first: FinishedRows[RowT]) -> None:
        groups = (first, *self._monitor.finished_beside(first, self._decode_rows_max))
        began = self._clock()
        # Read without the lock, to save a decode if possible; the monitor checks again.
        held_rows = [held for group in groups if not group[0].job.over for held in group]
        outcomes = dict(zip((id(held) for held in held_rows), self._decoded(held_rows), strict=True))
        share_s = (self._clock() - began) / max(1, len(held_rows))
        for group in groups:
            self._monitor.finished(group, _together([outcomes.get(id(held)) for held in group]), share_s * len(group))

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
        # The decoder's memory grows with the rows, and a step may have held some of it a moment ago: rows that did not
        # fit together may fit one by one. For any other fault, retrying alone shows which row it belongs to.
        return [one for row in rows for one in self._decoded_together([row])]

    def _finished(self, rows: Sequence[RowT]) -> tuple[RenderedImage | RenderFault, ...]:
        outcomes = self._device.finish(rows)
        if len(outcomes) != len(rows):
            raise ValueError(f"the device made {len(outcomes)} pictures of {len(rows)} rows")
        return outcomes


def _together(outcomes: Sequence[RenderedImage | RenderFault | None]) -> tuple[RenderedImage, ...] | RenderFault:
    """Return a job's pictures, or its first fault. None stands for rows that were not decoded because the job ended."""
    for outcome in outcomes:
        if isinstance(outcome, RenderFault):
            return outcome
    return tuple(outcome for outcome in outcomes if isinstance(outcome, RenderedImage))


def _attempt(
    call: Callable[_Arguments, _Result], *args: _Arguments.args, **kwargs: _Arguments.kwargs
) -> _Result | RenderFault:
    """Call into the device and return its result, or the fault that it raised.

    Raises `MemoryError` (the host is out of memory), `DeviceLost` and everything that is not an `Exception`: these
    belong to no row, and end the lane.
    """
    try:
        return call(*args, **kwargs)
    except (MemoryError, DeviceLost):
        raise
    except Exception as error:
        return _fault_of(error)


def _fault_of(error: Exception) -> RenderFault:
    """Return the fault in an error that a device raised.

    A new object without traceback, cause or context: those hold the device's frames, and with them the tensors that a
    device which is out of memory needs back.
    """
    if isinstance(error, RenderFault):
        return RenderFault(error.kind, error.code, bounded(error.message))
    _log.error("device_error", error=_said_by(error), traceback=_traceback(error))
    return RenderFault(FaultKind.BATCH, ErrorCode.RENDER_FAILED, _said_by(error))


def _traceback(error: BaseException) -> str:
    """Return the last frames as text: a log's own formatter may print local values, tensors and prompts included."""
    return "".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS_MAX:]


def _said_by(error: BaseException) -> str:
    """Return the error's type and message, cut to the length of an event: a message can quote whole tensors."""
    return bounded(f"{type(error).__name__}: {error}")
