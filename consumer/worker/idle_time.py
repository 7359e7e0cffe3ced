"""How long the device stood still between two steps although the worker had work: the measure of "it never waits".

Measured where the engine speaks, on its own threads: the event loop, which is asked for the next rows, may be the
very thing that the device waits for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from darkroom.inference.contract import (
    BatchKey,
    CacheCounts,
    Engine,
    EngineEvent,
    JobId,
    Listener,
    ModelInfo,
    RenderJob,
    RowId,
    StepDone,
    StepFailed,
)

if TYPE_CHECKING:
    from darkroom.inference.planning.profile import DeviceProfile

log = structlog.get_logger(__name__)

LOGGED_S_MIN = 0.002
"""Shorter waits are only counted: a device is asked for its next step after some tenths of a millisecond."""


class TimedEngine(Engine):
    """An engine that also tells of its device's waits. Everything else it passes on."""

    def __init__(
        self,
        engine: Engine,
        has_work: Callable[[], bool],
        waited: Callable[[float], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`has_work`: whether the worker holds rows that are not on the device. `waited` takes the seconds between two
        steps at the end of the first of which it did. Both are called on the engine's threads and must return at once.
        """
        self._engine = engine
        self._has_work = has_work
        self._waited = waited
        self._clock = clock
        self._idle_since: float | None = None
        """The end of a step; None where there was no more work then."""

    @property
    def info(self) -> ModelInfo:
        """The loaded model."""
        return self._engine.info

    @property
    def profile(self) -> DeviceProfile | None:
        """As `Engine.profile`."""
        return self._engine.profile

    def start(self, listener: Listener) -> None:
        """As `Engine.start`."""

        def listening(event: EngineEvent) -> None:
            match event:
                case StepDone():
                    self._stepped(event)
                case StepFailed():
                    self._idle_since = None  # when it began and ended is not told
            listener(event)

        self._engine.start(listening)

    def prepare(self, job: RenderJob) -> None:
        """As `Engine.prepare`."""
        self._engine.prepare(job)

    def admit(self, rows: Sequence[RowId]) -> None:
        """As `Engine.admit`."""
        self._engine.admit(rows)

    def drop(self, job_id: JobId) -> None:
        """As `Engine.drop`."""
        self._engine.drop(job_id)

    def rows_ceiling(self, batch_key: BatchKey) -> int | None:
        """As `Engine.rows_ceiling`."""
        return self._engine.rows_ceiling(batch_key)

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """As `Engine.cache_counts`."""
        return self._engine.cache_counts()

    def memory_bytes(self) -> Mapping[str, int]:
        """As `Engine.memory_bytes`."""
        return self._engine.memory_bytes()

    def close(self) -> None:
        """As `Engine.close`."""
        self._engine.close()

    def _stepped(self, event: StepDone) -> None:
        now = self._clock()
        if self._idle_since is not None:
            seconds = max(0.0, now - event.seconds - self._idle_since)
            self._waited(seconds)
            if seconds >= LOGGED_S_MIN:
                log.debug("the device waited", seconds=round(seconds, 6), rows=len(event.rows), joined=event.joined)
        self._idle_since = now if self._has_work() else None
