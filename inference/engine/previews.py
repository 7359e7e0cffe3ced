"""Whose preview the finish lane makes next, where it has nothing better to do.

Previews are lossy by contract: a wish is kept once a job, is served when no finished row waits, and is gone with the
row's last step, because the picture itself follows then. Like `darkroom.inference.engine.step_batch`, without locks and
clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from darkroom.inference.contract import RowT
from darkroom.inference.engine.step_batch import HeldJob, HeldRow, Stage


class PreviewWishes(Generic[RowT]):
    """At most one wish a job, in the order in which they came; so never more than there are rows on the device."""

    def __init__(self, interval_s: float) -> None:
        """`interval_s`: the least time between two previews of one job."""
        self._interval_s = interval_s
        self._wishes: dict[HeldJob[RowT], HeldRow[RowT]] = {}

    def add(self, rows: Sequence[HeldRow[RowT]], now: float) -> bool:
        """After a step of `rows`: note those whose preview is due; true where there are any."""
        for held in rows:
            due_at = held.job.preview_due_at
            if due_at is not None and now >= due_at and not held.job.over:
                self._wishes.setdefault(held.job, held)
        return bool(self._wishes)

    def take(self, now: float) -> HeldRow[RowT] | None:
        """The oldest wish whose row is still on the device; its job's next one is due an interval from now."""
        while self._wishes:
            job = next(iter(self._wishes))
            held = self._wishes.pop(job)
            if held.stage is Stage.ON_DEVICE and not job.over:
                job.preview_due_at = now + self._interval_s
                return held
        return None
