"""Between the core's jobs and the engine's: starts them, and turns the engine's events into the core's.

The engine speaks from threads of its own. Its events are put into a queue and taken out on the event loop,
woken once for as many as there are, so that a fast device does not flood the loop with wake-ups. A step from which
nothing follows waits for one from which something does, for `QUIET_S` of steps at the most.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import TypeGuard

import structlog

from darkroom.consumer.core import events as on
from darkroom.consumer.core.partition_key import JobKey, RowKey
from darkroom.consumer.worker.payload import Payload
from darkroom.inference import types as engine_says
from darkroom.inference.contract import Engine
from darkroom.inference.types import BatchKey, EngineEvent, FaultKind, JobId, RenderJob, RowId
from darkroom.producer.tasks import described

log = structlog.get_logger(__name__)

_PARTY = {
    FaultKind.REQUEST: on.FaultParty.REQUEST,
    FaultKind.BATCH_MEMORY: on.FaultParty.MEMORY,
    FaultKind.BATCH: on.FaultParty.UNKNOWN,
}

QUIET_S = 0.25
"""Steps of so long together are told of even if nothing follows from them: metrics are no older."""


class Rendering:
    """Holds which engine job belongs to which record. A record that is prepared again is a new engine job."""

    def __init__(
        self,
        engine: Engine,
        post: Callable[[on.Event], None],
        on_stopped: Callable[[str], None],
        clock: Callable[[], float],
        on_lane: Callable[[EngineEvent], None] | None = None,
    ) -> None:
        """Make a rendering that is not started. `on_lane`: told of every engine event on the engine's own threads."""
        self._engine = engine
        self._post = post
        self._on_stopped = on_stopped
        self._clock = clock
        self._on_lane = on_lane
        self._serial = count(1)
        self._ids: dict[JobKey, JobId] = {}
        self._jobs: dict[JobId, tuple[JobKey, Payload]] = {}
        self._caps: dict[BatchKey, int] = {}
        """The caps that the core was told of."""
        self._queue: deque[EngineEvent] = deque()
        self._woken = False
        self._quiet_s = 0.0
        """The time of the steps in the queue, where there is nothing else in it."""
        self._observer_error = ""
        """The last failure of an observer that was logged."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self.observers: list[Callable[[EngineEvent], None]] = []
        """Told of every engine event on the event loop: metrics, progress."""

    async def start(self) -> None:
        """Load and warm the engine on a thread. Raises `darkroom.inference.types.ModelError`."""
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self._engine.start, self._listen)

    async def close(self) -> None:
        """Stop the engine's lanes."""
        await asyncio.to_thread(self._engine.close)

    def prepare(self, key: JobKey, payload: Payload) -> None:
        """Give a job to the prepare lane."""
        received = payload.received
        assert received.render is not None
        assert received.request is not None
        job_id = f"{key.partition}:{key.offset}#{next(self._serial)}"
        self._ids[key] = job_id
        self._jobs[job_id] = (key, payload)
        payload.attempts += 1
        self._engine.prepare(RenderJob(job_id, received.render, payload.pictures, received.request.progress))

    def admit(self, rows: Sequence[RowKey]) -> None:
        """Let rows join at the next step boundary."""
        self._engine.admit([RowId(self._ids[row.job], row.image) for row in rows if row.job in self._ids])

    def drop(self, key: JobKey) -> None:
        """The job is not to be rendered any further, or is done."""
        job_id = self._ids.pop(key, None)
        if job_id is not None:
            del self._jobs[job_id]
            self._engine.drop(job_id)

    def payload_of(self, job_id: JobId) -> tuple[JobKey, Payload] | None:
        """Return the payload of an engine's job."""
        return self._jobs.get(job_id)

    def _listen(self, event: EngineEvent) -> None:
        """On a lane's thread."""
        if self._on_lane is not None:
            self._on_lane(event)
        self._queue.append(event)
        if _is_quiet(event):
            self._quiet_s += event.seconds
            if self._quiet_s < QUIET_S:
                return
        if not self._woken and self._loop is not None:
            self._woken = True
            self._loop.call_soon_threadsafe(self._drain)

    def _drain(self) -> None:
        """On the event loop."""
        self._woken = False
        self._quiet_s = 0.0
        while self._queue:
            event = self._queue.popleft()
            for observe in self.observers:
                self._tell(observe, event)
            try:
                self._translate(event)
            except Exception as error:
                # Nobody awaits this callback, and a job whose event is lost would stand for ever.
                log.exception("an event of the engine was not understood")
                self._on_stopped(
                    f"An event of the engine was lost to {described(error)}. The process ends, so that a restart takes "
                    "up its work; the log has the traceback."
                )
                return

    def _tell(self, observe: Callable[[EngineEvent], None], event: EngineEvent) -> None:
        """Metrics and progress may fail without costing a job its event."""
        try:
            observe(event)
        except Exception as error:
            said = described(error)
            if said != self._observer_error:  # one observer can fail at every step
                log.exception("an observer of the engine failed", event_type=type(event).__name__)
            self._observer_error = said

    def _translate(self, event: EngineEvent) -> None:
        match event:
            case engine_says.StepDone():
                self._mark_joined(event)
                if event.retired:
                    self._post(on.StepBoundary(self._rows(event.retired)))
            case engine_says.StepFailed(rows, fault, dropped):
                known = self._rows(rows)
                dropped += len(rows) - len(known)
                self._post(on.StepFaulted(known, _PARTY[fault.kind], fault.code, fault.message, dropped))
            case engine_says.EngineStopped(reason):
                self._on_stopped(reason)
            case engine_says.JobPrepared() | engine_says.JobRendered() | engine_says.JobFailed():
                if found := self._jobs.get(event.job_id):
                    self._translate_of_job(event, *found)

    def _translate_of_job(
        self,
        event: engine_says.JobPrepared | engine_says.JobRendered | engine_says.JobFailed,
        key: JobKey,
        payload: Payload,
    ) -> None:
        match event:
            case engine_says.JobPrepared():
                payload.note_prepared(event, self._clock())
                if event.cap is not None and self._caps.get(event.batch_key) != event.cap:
                    self._caps[event.batch_key] = event.cap
                    self._post(on.CapKnown(event.batch_key, event.cap))
                self._post(on.Prepared(key, event.batch_key))
            case engine_says.JobRendered():
                size_bytes = payload.note_rendered(event)
                request_id = payload.received.request_id
                log.debug("rendered", request_id=request_id, partition=key.partition, offset=key.offset)
                self._post(on.Rendered(key, size_bytes))
            case engine_says.JobFailed(_, fault):
                self._post(on.JobFaulted(key, _PARTY[fault.kind], fault.code, fault.message))

    def _mark_joined(self, event: engine_says.StepDone) -> None:
        if event.joined:
            started = self._clock() - event.seconds
            for row in event.rows:
                if found := self._jobs.get(row.job_id):
                    found[1].note_joined(started)

    def _rows(self, rows: Sequence[RowId]) -> tuple[RowKey, ...]:
        return tuple(RowKey(found[0], row.image) for row in rows if (found := self._jobs.get(row.job_id)) is not None)


def _is_quiet(event: EngineEvent) -> TypeGuard[engine_says.StepDone]:
    """A step that changed nothing but the rows' own progress, and nobody asked for that."""
    return isinstance(event, engine_says.StepDone) and not (event.retired or event.joined or event.steps_done)
