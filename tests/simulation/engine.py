"""A simulated engine: the real lanes' decisions (`darkroom.inference.engine.monitor`) on the virtual clock, and a
device that does what the prompts say.

The lanes are timers instead of threads, so a freeze stops them and a crash ends them between any two callbacks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from darkroom.inference.contract import Listener, PreparedRows
from darkroom.inference.engine.monitor import FinishedRows, LaneMonitor
from darkroom.inference.engine.step_batch import HeldJob
from darkroom.inference.resolve import batch_key
from darkroom.inference.types import (
    BatchKey,
    CacheCounts,
    FaultKind,
    JobId,
    ModelInfo,
    RenderedImage,
    RenderFault,
    RenderJob,
    RowCaps,
    RowId,
)
from tests.simulation.clock import VirtualLoop
from tests.simulation.requests import Kind, kind_of

INFO = ModelInfo(
    name="simulated",
    revision="sha256:0123456789abcdef",
    native_width=64,
    native_height=64,
    size_multiple=8,
    latent_factor=8,
    device="none",
    dtype="none",
    sampler_version="1",
)


@dataclass(slots=True)
class SimRow:
    """One image in the making."""

    row_id: RowId
    batch_key: BatchKey
    steps_total: int
    prompt: str
    seed: int
    is_economy: bool
    """Every second step is shallow: so few steps would all be full by the real rule."""
    steps_done: int = 0

    @property
    def full_steps(self) -> int:
        return -(-self.steps_done // 2) if self.is_economy else self.steps_done

    @property
    def next_is_full(self) -> bool:
        return not self.is_economy or self.steps_done % 2 == 0


@dataclass(slots=True)
class Troubles:
    """What may go wrong on a device, as shares of the prepares, steps or finishes."""

    step_fails: float = 0.0
    """Only of steps with company: three failures alone would rightly fail a request."""
    job_fails: float = 0.0
    """Once for a request at the most, for the same reason."""
    stalls: float = 0.0
    stall_s: float = 0.0
    held_s: dict[str, float] = field(default_factory=dict)
    """By lane: what everything takes longer there."""
    memory_rows_max: int = 99


class Surroundings(Protocol):
    """What an engine needs of the world around it."""

    @property
    def rng(self) -> random.Random: ...
    @property
    def loop(self) -> VirtualLoop: ...
    @property
    def troubles(self) -> Troubles: ...
    def may_fail(self, prompt: str) -> bool: ...
    def die(self) -> None: ...
    def preparing(self, job: RenderJob) -> None: ...
    def rows_on_device(self, rows: Sequence[SimRow]) -> None: ...
    @property
    def mark(self) -> str: ...


class SimEngine:
    """`darkroom.inference.contract.Engine` on the virtual clock."""

    def __init__(self, world: Surroundings, rows_max: int) -> None:
        self._world = world
        caps = RowCaps(world.rng.randint(1, rows_max), rows_max)
        self._monitor: LaneMonitor[SimRow] = LaneMonitor(
            caps=lambda _key: caps,
            finish_queue_rows_max=4,
            jobs_max=64,
            preview_interval_s=1.0,  # nobody asks for one here
            clock=world.loop.time,
        )
        self._busy: set[str] = set()
        self._closed = False
        self._listener: Listener | None = None

    @property
    def info(self) -> ModelInfo:
        """The simulated model."""
        return INFO

    @property
    def profile(self) -> None:
        """Not measured: virtual steps take what chance says."""
        return None

    @property
    def plan(self) -> None:
        """Nothing to plan."""
        return None

    def start(self, listener: Listener) -> None:
        """Nothing to load."""
        self._listener = listener
        self._monitor.listen(listener)

    def prepare(self, job: RenderJob) -> None:
        """As the protocol says."""
        self._world.preparing(job)
        self._monitor.prepare(job)
        self._next()

    def admit(self, rows: Sequence[RowId]) -> None:
        """As the protocol says."""
        self._monitor.admit(rows)
        self._next()

    def set_cap(self, batch_key: BatchKey, rows: int) -> None:
        """As the protocol says."""
        self._monitor.set_cap(batch_key, rows)

    def drop(self, job_id: JobId) -> None:
        """As the protocol says."""
        self._monitor.drop(job_id)
        self._next()

    def rows_ceiling(self, batch_key: BatchKey) -> None:
        """Not known, so that steps of too many rows come to pass (`Troubles.memory_rows_max`)."""

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        """There are no caches."""
        return {}

    def memory_bytes(self) -> Mapping[str, int]:
        """There is no memory."""
        return {}

    def refresh_adapters(self) -> bool:
        """There are no adapters."""
        return False

    def close(self) -> None:
        """As the protocol says."""
        if not self._closed:
            self._closed = True
            self._monitor.end()

    def stop_by_itself(self) -> None:
        """A lane dies of something that is nobody's row."""
        if not self._closed:
            self._closed = True
            self._monitor.end("the simulated driver is gone")

    # --- The lanes -----------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Give every lane that is idle the next thing to do."""
        monitor = self._monitor
        if self._closed:
            return
        if "prepare" not in self._busy and monitor._to_prepare:
            held = monitor.next_job()
            assert held is not None
            self._take("prepare", 0.03, self._prepared, held)
        batch = monitor._batch
        some = batch._joining or any(not held.job.over for held in batch.rows)
        if "denoise" not in self._busy and some and monitor._unfinished_rows <= monitor._finish_queue_rows_max:
            monitor.let_join()
            self._world.rows_on_device(monitor.rows_on_device)
            self._take("denoise", 0.06, self._stepped)
        if "finish" not in self._busy and monitor._to_finish:
            rows = monitor.next_finished()
            assert rows is not None
            self._take("finish", 0.03, self._finished, rows)

    def _take(self, lane: str, seconds: float, done: Callable[..., None], *args: object) -> None:
        self._busy.add(lane)
        rng, troubles = self._world.rng, self._world.troubles
        seconds *= 0.5 + rng.random()
        if rng.random() < troubles.stalls:
            seconds += rng.random() * troubles.stall_s
        seconds += troubles.held_s.get(lane, 0.0)
        self._world.loop.call_later(seconds, self._did, lane, seconds, done, args)

    def _did(self, lane: str, seconds: float, done: Callable[..., None], args: tuple[object, ...]) -> None:
        self._busy.discard(lane)
        if not self._closed:
            done(*args, seconds)
            self._next()

    def _prepared(self, held: HeldJob[SimRow], seconds: float) -> None:
        job, request = held.job, held.job.request
        kind = kind_of(request.prompt)
        if kind is Kind.POISON_PREPARE and not held.over:
            self._world.die()
            return
        fault: RenderFault | None = None
        if kind is Kind.BAD_PREPARE:
            fault = RenderFault(FaultKind.REQUEST, "pose_unreadable", "the pose cannot be read")
        elif self._job_fails(request.prompt):
            fault = RenderFault(FaultKind.BATCH, "render_failed", "a kernel failed")
        key = batch_key(request, INFO)
        rows = tuple(
            SimRow(
                RowId(job.job_id, image),
                key,
                request.steps,
                request.prompt,
                request.seed + image,
                is_economy=request.fidelity == "economy",
            )
            for image in range(request.count)
        )
        self._monitor.prepared(held, fault or PreparedRows(rows), seconds)

    def _stepped(self, seconds: float) -> None:
        rows = self._monitor.rows_on_device
        kinds = {kind_of(row.prompt) for row in rows}
        company = len(rows) > 1
        if Kind.POISON_STEP in kinds:
            self._world.die()
        elif len(rows) > self._world.troubles.memory_rows_max:
            self._monitor.step_failed(RenderFault(FaultKind.BATCH_MEMORY, "out_of_memory", "no memory"))
        elif Kind.CULPRIT in kinds or (company and self._world.rng.random() < self._world.troubles.step_fails):
            self._monitor.step_failed(RenderFault(FaultKind.BATCH, "render_failed", "a step failed"))
        else:
            for row in rows:
                row.steps_done += 1
            self._monitor.stepped(seconds)

    def _finished(self, rows: FinishedRows[SimRow], seconds: float) -> None:
        if self._job_fails(rows[0].row.prompt):
            self._monitor.finished(rows, RenderFault(FaultKind.BATCH, "render_failed", "a decode failed"), seconds)
            return
        images = [
            # Another worker's picture of the same request has other bytes here, so that a late writer shows.
            RenderedImage(
                f"{held.row.prompt} {held.row.seed} {self._world.mark}".encode(),
                64,
                64,
                held.row.seed,
                "image/png",
                "png",
            )
            for held in rows
        ]
        self._monitor.finished(rows, images, seconds)

    def _job_fails(self, prompt: str) -> bool:
        return self._world.rng.random() < self._world.troubles.job_fails and self._world.may_fail(prompt)
