"""A device that does what a test says, and a listener that a test can wait on.

`ScriptedDevice` implements the whole of `darkroom.inference.contract.Device` and checks the engine's side of it while
it is driven: what it finds wrong is in `broken`, which every test looks at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from darkroom.inference.contract import Device, PreparedRows
from darkroom.inference.engine import LaneEngine
from darkroom.inference.resolve import batch_key
from darkroom.inference.types import (
    BatchKey,
    CacheCounts,
    EngineEvent,
    JobId,
    JobPrepared,
    Lane,
    ModelInfo,
    Part,
    Preview,
    ProgressDetail,
    RenderedImage,
    RenderJob,
    RenderRequest,
    RowId,
    Series,
    StepDone,
)

WAIT_S = 20.0
"""How long a test waits for what must happen: far above what it takes on a busy machine."""

INFO = ModelInfo(
    name="scripted",
    revision="sha256:" + "0" * 64,
    native_width=64,
    native_height=64,
    size_multiple=8,
    latent_factor=8,
    device="scripted",
    dtype="none",
    sampler_version="scripted-1",
)


class FakeClock:
    """Seconds that pass only when a device says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@dataclass(eq=False)
class ScriptedRow:
    row_id: RowId
    batch_key: BatchKey
    steps_total: int
    seed: int
    steps_done: int = 0
    finished: bool = False
    shallow: frozenset[int] = frozenset()
    """The steps that are shallow, counted from 0."""

    @property
    def full_steps(self) -> int:
        return sum(step not in self.shallow for step in range(self.steps_done))

    @property
    def next_is_full(self) -> bool:
        return self.steps_done not in self.shallow


@dataclass
class ScriptedDevice(Device[ScriptedRow]):
    """`on_*` run before the call does its work: they may raise, block, or count."""

    rows_max: int = 8
    on_load: Callable[[], None] = lambda: None
    on_prepare: Callable[[RenderJob], None] = lambda job: None
    on_step: Callable[[Sequence[ScriptedRow]], None] = lambda rows: None
    on_finish: Callable[[Sequence[ScriptedRow]], None] = lambda rows: None
    on_preview: Callable[[ScriptedRow], None] = lambda row: None
    on_measure: Callable[[Part, int, int, int], float] = lambda part, height, width, count: 0.001 * count
    hardware: Mapping[str, str] = field(default_factory=lambda: {"hardware": "scripted"})
    padded_to: tuple[int, ...] = ()
    measured: list[tuple[Part, int, int, int]] = field(default_factory=list)
    batches: list[tuple[RowId, ...]] = field(default_factory=list)
    """Rows of every step that did not fail, in the order the device was given them."""
    prepared: list[ScriptedRow] = field(default_factory=list)
    prepare_order: list[JobId] = field(default_factory=list)
    finish_calls: list[tuple[RowId, ...]] = field(default_factory=list)
    previews: list[tuple[RowId, int]] = field(default_factory=list)
    """Of which row a preview was asked, and its steps done then."""
    broken: list[str] = field(default_factory=list)
    closes: int = 0
    series: Series = Series.NONE
    ceilings: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """By latent height and width; none elsewhere."""
    calls: list[Lane] = field(default_factory=list)
    """Every call into a lane, in order; to measure takes all three."""
    _inside: set[Lane] = field(default_factory=set)

    @property
    def info(self) -> ModelInfo:
        return INFO

    def rows_ceiling(self, latent_height: int, latent_width: int) -> int | None:
        return self.ceilings.get((latent_height, latent_width))

    def load(self) -> None:
        self.on_load()

    @contextmanager
    def _alone(self, *lanes: Lane) -> Iterator[None]:
        exclusive: set[Lane] = {
            Series.NONE: set(),
            Series.DENOISE_AND_FINISH: {Lane.DENOISE, Lane.FINISH},
            Series.ALL: set(Lane),
        }[self.series]
        beside = self._inside & set(lanes).union(exclusive if exclusive & set(lanes) else ())
        if beside:
            self.broken.append(f"{lanes} ran beside {beside}")
        self._inside.update(lanes)
        self.calls.extend(lanes)
        try:
            yield
        finally:
            self._inside.difference_update(lanes)

    def prepare(self, job: RenderJob) -> PreparedRows[ScriptedRow]:
        with self._alone(Lane.PREPARE):
            self.prepare_order.append(job.job_id)
            self.on_prepare(job)
            key = batch_key(job.request, INFO)
            rows = tuple(
                ScriptedRow(RowId(job.job_id, index), key, job.request.steps, job.request.seed + index)
                for index in range(job.request.count)
            )
            self.prepared.extend(rows)
            return PreparedRows(rows, warnings=("scripted",))

    def step(self, rows: Sequence[ScriptedRow]) -> None:
        with self._alone(Lane.DENOISE):
            if not rows:
                self.broken.append("a step of no rows")
            if len(rows) > self.rows_max:
                self.broken.append(f"{len(rows)} rows in a step, at most {self.rows_max} allowed")
            ceiling = self.ceilings.get(rows[0].batch_key[:2]) if rows else None
            if ceiling is not None and len(rows) > ceiling:
                self.broken.append(f"{len(rows)} rows in a step of a size that holds {ceiling}")
            if len({row.batch_key for row in rows}) > 1:
                self.broken.append(f"keys mixed: {[row.row_id for row in rows]}")
            if len(set(map(id, rows))) < len(rows):
                self.broken.append("a row twice in a step")
            for row in rows:
                if row.steps_done >= row.steps_total:
                    self.broken.append(f"{row.row_id} stepped beyond its {row.steps_total} steps")
            self.on_step(rows)
            self.batches.append(tuple(row.row_id for row in rows))
            for row in rows:
                row.steps_done += 1

    def finish(self, rows: Sequence[ScriptedRow]) -> tuple[RenderedImage, ...]:
        with self._alone(Lane.FINISH):
            self.finish_calls.append(tuple(row.row_id for row in rows))
            for row in rows:
                if row.steps_done != row.steps_total:
                    self.broken.append(f"{row.row_id} finished after {row.steps_done} of {row.steps_total} steps")
                if row.finished:
                    self.broken.append(f"{row.row_id} finished twice")
            if len({row.batch_key for row in rows}) != 1:
                self.broken.append("rows of several sizes in one finish")
            self.on_finish(rows)
            for row in rows:
                row.finished = True
            return tuple(RenderedImage(f"{row.row_id}".encode(), 64, 64, row.seed, "image/png", "png") for row in rows)

    def preview(self, row: ScriptedRow) -> Preview | None:
        with self._alone(Lane.FINISH):
            steps_done = row.steps_done
            self.previews.append((row.row_id, steps_done))
            self.on_preview(row)
            return Preview(f"{row.row_id} {steps_done}".encode(), steps_done)

    def measured_on(self) -> Mapping[str, str]:
        return self.hardware

    def buckets(self, latent_height: int, latent_width: int) -> tuple[int, ...]:
        return self.padded_to

    def measure(self, part: Part, latent_height: int, latent_width: int, count: int) -> float:
        with self._alone(*Lane):
            self.measured.append((part, latent_height, latent_width, count))
            return self.on_measure(part, latent_height, latent_width, count)

    def cache_counts(self) -> Mapping[str, CacheCounts]:
        return {"prompt": CacheCounts(3, 2, 1)}

    def memory_bytes(self) -> Mapping[str, int]:
        return {"allocated": 5}

    def close(self) -> None:
        self.closes += 1


class Gate:
    """Lets a lane through one call at a time, or all at once when opened for good."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._passes = 0
        self._open = False
        self.waiting = 0

    def __call__(self, _what: object = None) -> None:
        with self._changed:
            self.waiting += 1
            self._changed.notify_all()
            came = self._changed.wait_for(lambda: self._open or self._passes > 0, WAIT_S)
            self.waiting -= 1
            if not came:
                raise AssertionError("nobody opened the gate")
            if not self._open:
                self._passes -= 1

    def let_through(self, calls: int = 1) -> None:
        with self._changed:
            self._passes += calls
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def wait_reached(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting > 0, WAIT_S), "no lane came to the gate"


EventT = TypeVar("EventT", bound=EngineEvent)


class EventLog:
    """A listener that keeps all it hears, with the thread it heard it from."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []
        self.threads: list[str] = []
        self._heard = threading.Condition()

    def __call__(self, event: EngineEvent) -> None:
        with self._heard:
            self.events.append(event)
            self.threads.append(threading.current_thread().name)
            self._heard.notify_all()

    def of(self, kind: type[EventT], job_id: JobId | None = None) -> list[EventT]:
        events = [event for event in self.events if isinstance(event, kind)]
        return [event for event in events if job_id is None or getattr(event, "job_id", None) == job_id]

    def wait(self, kind: type[EventT], job_id: JobId | None = None, count: int = 1) -> EventT:
        """The event of this kind (and job) that is number `count`, once it has come."""
        with self._heard:
            came = self._heard.wait_for(lambda: len(self.of(kind, job_id)) >= count, WAIT_S)
        assert came, f"no {kind.__name__} {job_id or ''} number {count} among {self.events[-20:]}"
        return self.of(kind, job_id)[count - 1]


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for a condition that nobody announces."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came"
        time.sleep(0.001)


def request(
    *, steps: int = 3, count: int = 1, width: int = 64, height: int = 64, seed: int = 7, prompt: str = "a dancer"
) -> RenderRequest:
    return RenderRequest(
        prompt=prompt,
        negative_prompt=None,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=5.0,
        sampler="euler_ancestral",
        seed=seed,
        count=count,
        image_text={"darkroom:seed": str(seed)},
    )


def job(
    job_id: JobId,
    *,
    steps: int = 3,
    count: int = 1,
    width: int = 64,
    height: int = 64,
    seed: int = 7,
    prompt: str = "a dancer",
    progress: ProgressDetail = "none",
) -> RenderJob:
    asked = request(steps=steps, count=count, width=width, height=height, seed=seed, prompt=prompt)
    return RenderJob(job_id, asked, progress=progress)


def rows_of(job_id: JobId, count: int = 1) -> list[RowId]:
    return [RowId(job_id, index) for index in range(count)]


Started = tuple[LaneEngine[ScriptedRow], EventLog]
Starter = Callable[..., Started]


@contextmanager
def starting(device: ScriptedDevice) -> Iterator[Starter]:
    """A way to start engines over the device. At the end they are closed, and the device must have found nothing."""
    engines: list[LaneEngine[ScriptedRow]] = []

    def start(**options: Any) -> Started:
        device.rows_max = options.setdefault("rows_max", 8)
        engine = LaneEngine(device, **options)
        engines.append(engine)
        log = EventLog()
        engine.start(log)
        return engine, log

    try:
        yield start
    finally:
        for engine in engines:
            engine.close()
    assert device.broken == []


def prepare(engine: LaneEngine[ScriptedRow], log: EventLog, *jobs: RenderJob) -> None:
    """Prepare jobs and wait until they are."""
    before = {each.job_id: len(log.of(JobPrepared, each.job_id)) for each in jobs}
    for each in jobs:
        engine.prepare(each)
    for each in jobs:
        log.wait(JobPrepared, each.job_id, before[each.job_id] + 1)


def stepped(log: EventLog) -> list[list[str]]:
    """The jobs that took each step, as the engine told it."""
    return [[row.job_id for row in step.rows] for step in log.of(StepDone)]


def fail_once(error: BaseException) -> Callable[[object], None]:
    """Raises at its first call only."""
    left = [error]

    def call(_what: object) -> None:
        if left:
            raise left.pop()

    return call


def lane_alive(lane: str) -> bool:
    return any(thread.name == f"darkroom-{lane}" for thread in threading.enumerate())
