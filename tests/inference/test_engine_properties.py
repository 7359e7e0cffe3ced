"""What holds of the engine whatever is admitted, dropped and failed, and in whatever order.

- Every admitted row takes exactly its steps, the cap is kept, keys are never mixed (`ScriptedDevice` looks).
- Every job ends in exactly one of `JobRendered` and `JobFailed`, unless it was dropped.
- No event is one that its caller could not expect: none of a dropped job, none of an old incarnation.

Twice: against the monitor in one thread, where hypothesis chooses every interleaving and shrinks a failure to
the shortest one; and against `LaneEngine` with its three threads, where the machine chooses.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from darkroom.inference.engine import LaneEngine
from darkroom.inference.engine.monitor import FinishedRows, LaneMonitor
from darkroom.inference.engine.step_batch import HeldJob, HeldRow
from darkroom.inference.resolve import batch_key
from darkroom.inference.types import (
    EngineEvent,
    FaultKind,
    JobFailed,
    JobId,
    JobPrepared,
    JobPreview,
    JobRendered,
    ProgressDetail,
    RenderFault,
    RenderJob,
    RowCaps,
    RowId,
    StepDone,
    StepFailed,
)
from tests.inference.scripted import INFO, WAIT_S, FakeClock, ScriptedDevice, ScriptedRow, job

NAMES = ["a", "b", "c", "d"]
SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 2), st.sampled_from([64, 128]))
"""Steps, count and width of a job."""
SELDOM = st.sampled_from([False, False, False, True])
ROWS_MAX = 3
FINISH_QUEUE_ROWS_MAX = 2


@dataclass
class Known:
    """What the caller knows of one incarnation of a job."""

    job: RenderJob
    rows: dict[int, str] = field(default_factory=dict)
    """`prepared`, `admitted` or `retired`, by index; empty until the job is prepared."""
    ended: int = 0


class Caller:
    """A listener that knows what it asked for, and notes every event that it could not expect."""

    def __init__(self) -> None:
        self.jobs: dict[JobId, Known] = {}
        self.surprises: list[str] = []
        self.incarnations = 0
        self.heard = threading.Condition()

    def new_job(self, name: JobId, shape: tuple[int, int, int]) -> RenderJob:
        """A job under `name` whose pictures tell its incarnation by their seed."""
        self.incarnations += 1
        steps, count, width = shape
        progress: ProgressDetail = "previews" if self.incarnations % 2 else "steps"
        asked = job(name, steps=steps, count=count, width=width, seed=self.incarnations * 100, progress=progress)
        self.jobs[name] = Known(asked)
        return asked

    def admissible(self, name: JobId) -> list[RowId]:
        known = self.jobs.get(name)
        return [] if known is None else [RowId(name, index) for index, at in known.rows.items() if at == "prepared"]

    def admitted(self, rows: list[RowId]) -> None:
        for row in rows:
            self.jobs[row.job_id].rows[row.image] = "admitted"

    def unfinished(self) -> list[JobId]:
        return [name for name, known in self.jobs.items() if not known.ended]

    def __call__(self, event: EngineEvent) -> None:
        with self.heard:
            match event:
                case JobPrepared():
                    known = self._expect(event.job_id, event)
                    if known.rows:
                        self.surprises.append(f"prepared twice: {event}")
                    known.rows = dict.fromkeys(range(known.job.request.count), "prepared")
                case StepDone():
                    self._move(event.rows, "admitted", "admitted", event)
                    self._move(event.retired, "admitted", "retired", event)
                    if not event.rows or not set(event.retired) <= set(event.rows):
                        self.surprises.append(f"retired without a step: {event}")
                    if set(event.steps_done) != {row.job_id for row in event.rows}:
                        self.surprises.append(f"progress of other jobs: {event}")
                case StepFailed():
                    self._move(event.rows, "admitted", "prepared", event)
                case JobRendered():
                    known = self._expect(event.job_id, event)
                    known.ended += 1
                    seed, count = known.job.request.seed, known.job.request.count
                    if [image.seed for image in event.images] != list(range(seed, seed + count)):
                        self.surprises.append(f"pictures of another incarnation: {event}")
                    if set(known.rows.values()) != {"retired"}:
                        self.surprises.append(f"rendered too early: {event}")
                case JobFailed():
                    self._expect(event.job_id, event).ended += 1
                case JobPreview():
                    known = self._expect(event.job_id, event)
                    if known.job.progress != "previews" or known.rows[0] == "retired":
                        self.surprises.append(f"a preview that nobody wants: {event}")
                case _:
                    self.surprises.append(f"{event}")
            self.heard.notify_all()

    def _expect(self, name: JobId, event: EngineEvent) -> Known:
        known = self.jobs.get(name)
        if known is None or known.ended:
            self.surprises.append(f"of a job that is over: {event}")
            return Known(job(name))
        return known

    def _move(self, rows: tuple[RowId, ...], before: str, after: str, event: EngineEvent) -> None:
        for row in rows:
            known = self._expect(row.job_id, event)
            if known.rows.get(row.image) != before:
                self.surprises.append(f"{row} is {known.rows.get(row.image)}: {event}")
            known.rows[row.image] = after


def check_steps(device: ScriptedDevice) -> None:
    """Every row that was finished took each of its steps once; nobody took one too many."""
    assert device.broken == []
    taken: dict[RowId, int] = {}
    for rows in device.batches:
        for row in rows:
            taken[row] = taken.get(row, 0) + 1
    wanted: dict[RowId, int] = {}
    for made in device.prepared:
        wanted[made.row_id] = wanted.get(made.row_id, 0) + made.steps_done
    assert taken == {row: steps for row, steps in wanted.items() if steps}


class MonitorMachine(RuleBasedStateMachine):
    """One thread plays the caller and all three lanes, each lane in two halves: it takes work, it brings it back."""

    def __init__(self) -> None:
        super().__init__()
        self.device = ScriptedDevice(rows_max=ROWS_MAX)
        self.caller = Caller()
        self.monitor: LaneMonitor[ScriptedRow] = LaneMonitor(
            caps=lambda _key: RowCaps(ROWS_MAX - 1, ROWS_MAX),
            finish_queue_rows_max=FINISH_QUEUE_ROWS_MAX,
            jobs_max=100,
            preview_interval_s=0.0,
            clock=FakeClock(),
        )
        self.queued: list[Known] = []
        self.preparing: HeldJob[ScriptedRow] | None = None
        self.stepping = False
        self.finishing: FinishedRows[ScriptedRow] | None = None
        self.undecoded: list[int] = []
        self.changed: set[int] = set()
        """Rows, by `id`, that took a step since a preview was made of them."""
        self.cap = ROWS_MAX - 1

    @initialize()
    def listen(self) -> None:
        self.monitor.listen(self.caller)

    # --- The caller

    def _free(self) -> list[str]:
        return [name for name in NAMES if name not in self.caller.unfinished()]

    def _admissible(self) -> list[RowId]:
        return [row for name in self.caller.unfinished() for row in self.caller.admissible(name)]

    @precondition(lambda self: bool(self._free()))
    @rule(data=st.data(), shape=SHAPES)
    def prepare(self, data: st.DataObject, shape: tuple[int, int, int]) -> None:
        self._prepare(data.draw(st.sampled_from(self._free())), shape)

    def _prepare(self, name: str, shape: tuple[int, int, int]) -> None:
        self.monitor.prepare(self.caller.new_job(name, shape))
        self.queued.append(self.caller.jobs[name])

    @precondition(lambda self: bool(self._admissible()))
    @rule(data=st.data())
    def admit(self, data: st.DataObject) -> None:
        rows = data.draw(st.lists(st.sampled_from(self._admissible()), min_size=1, unique=True))
        self.caller.admitted(rows)
        self.monitor.admit(rows)

    @rule(rows=st.integers(1, ROWS_MAX + 1))
    def set_cap(self, rows: int) -> None:
        for width in (64, 128):
            self.monitor.set_cap(batch_key(job("any", width=width).request, INFO), rows)
        self.cap = min(rows, ROWS_MAX)

    @precondition(lambda self: self.caller.unfinished())
    @rule(data=st.data(), anew=st.none() | SHAPES)
    def drop(self, data: st.DataObject, anew: tuple[int, int, int] | None) -> None:
        name = data.draw(st.sampled_from(self.caller.unfinished()))
        self.monitor.drop(name)
        self._forget(name)
        if anew is not None:
            self._prepare(name, anew)

    def _forget(self, name: str) -> None:
        known = self.caller.jobs.pop(name)
        self.queued = [other for other in self.queued if other is not known]

    # --- The prepare lane

    @precondition(lambda self: self.preparing is None and self.queued)
    @rule()
    def take_job(self) -> None:
        self.preparing = self.monitor.next_job()
        assert self.preparing is not None
        assert self.preparing.job is self.queued.pop(0).job, "jobs are prepared in order, dropped ones passed by"

    @precondition(lambda self: self.preparing is not None)
    @rule(fails=SELDOM)
    def bring_job(self, fails: bool) -> None:
        held, self.preparing = self.preparing, None
        assert held is not None
        fault = RenderFault(FaultKind.REQUEST, "invalid_request", "scripted")
        self.monitor.prepared(held, fault if fails else self.device.prepare(held.job), 0.0)

    # --- The denoise lane

    def _may_step(self) -> bool:
        """Whether the denoise lane would find work, rather than wait for it."""
        alive = [known for known in self.caller.jobs.values() if not known.ended]
        work = any(at == "admitted" for known in alive for at in known.rows.values())
        return work and not self.stepping and sum(self.undecoded) <= FINISH_QUEUE_ROWS_MAX

    @precondition(_may_step)
    @rule()
    def take_rows(self) -> None:
        before = {row.row_id for row in self.monitor.rows_on_device}
        assert self.monitor.let_join()
        self.stepping = True
        after = {row.row_id for row in self.monitor.rows_on_device}
        assert after <= before or len(after) <= self.cap, "who is there stays, and nobody joins above the cap"
        alive = {self.caller.jobs[name].job.request.seed for name in self.caller.unfinished()}
        assert all(row.seed - row.row_id.image in alive for row in self.monitor.rows_on_device)

    @precondition(lambda self: self.stepping)
    @rule(fails=SELDOM)
    def bring_rows(self, fails: bool) -> None:
        self.stepping = False
        if fails:
            self.changed.clear()
            self.monitor.step_failed(RenderFault(FaultKind.BATCH, "render_failed", "scripted"))
            return
        self.device.step(self.monitor.rows_on_device)
        retired_before = self._retired()
        self.monitor.stepped(0.0)
        self.changed |= {id(row) for row in self.monitor.rows_on_device}
        new = [row.job_id for _, row in self._retired() - retired_before]
        self.undecoded += [new.count(name) for name in set(new)]

    def _retired(self) -> set[tuple[int, RowId]]:
        return {
            (known.job.request.seed, RowId(name, index))
            for name, known in self.caller.jobs.items()
            for index, at in known.rows.items()
            if at == "retired"
        }

    # --- The finish lane

    @precondition(lambda self: self.finishing is None and self.undecoded)
    @rule()
    def take_finished(self) -> None:
        taken = self.monitor.next_finished()
        assert isinstance(taken, tuple), "finished rows go before previews"
        self.finishing = taken

    @precondition(lambda self: self.finishing is not None)
    @rule(fails=SELDOM)
    def bring_finished(self, fails: bool) -> None:
        rows, self.finishing = self.finishing, None
        assert rows is not None
        self.undecoded.remove(len(rows))
        fault = RenderFault(FaultKind.REQUEST, "render_failed", "scripted")
        outcome: Any = fault
        if not fails:
            outcome = self.device.finish([held.row for held in rows])
        self.monitor.finished(rows, outcome, 0.0)

    def _shown(self) -> list[ScriptedRow]:
        """Rows on the device of which previews are wanted."""
        wishing = {
            (name, known.job.request.seed)
            for name, known in self.caller.jobs.items()
            if known.job.progress == "previews" and not known.ended and known.rows.get(0) == "admitted"
        }
        return [
            row
            for row in self.monitor.rows_on_device
            if row.row_id.image == 0 and (row.row_id.job_id, row.seed) in wishing
        ]

    def _may_preview(self) -> bool:
        """Whether the finish lane would find a preview to make, rather than wait."""
        due = any(id(row) in self.changed for row in self._shown())
        return due and self.finishing is None and not self.undecoded

    @precondition(_may_preview)
    @rule(fails=SELDOM)
    def make_preview(self, fails: bool) -> None:
        shown = self._shown()
        taken = self.monitor.next_finished()
        assert isinstance(taken, HeldRow)
        assert taken.row in shown
        self.changed.discard(id(taken.row))
        fault = RenderFault(FaultKind.BATCH, "render_failed", "scripted")
        self.monitor.previewed(taken, fault if fails else self.device.preview(taken.row))
        if fails:
            # It is not tried again: as if the job had not asked.
            known = self.caller.jobs[taken.row_id.job_id]
            known.job = replace(known.job, progress="steps")

    # --- What must hold

    @invariant()
    def nothing_unexpected(self) -> None:
        assert self.caller.surprises == []
        assert self.device.broken == []

    def teardown(self) -> None:
        """With the lanes left to themselves every job that is left ends, once."""
        while True:
            if self.preparing is not None:
                self.bring_job(fails=False)
            elif self.queued:
                self.take_job()
            elif self.stepping:
                self.bring_rows(fails=False)
            elif self.finishing is not None:
                self.bring_finished(fails=False)
            elif self.undecoded:
                self.take_finished()
            elif self._may_step():
                self.take_rows()
            elif rows := self._admissible():
                self.caller.admitted(rows)
                self.monitor.admit(rows)
            else:
                break
        self.nothing_unexpected()
        assert [known.ended for known in self.caller.jobs.values()] == [1] * len(self.caller.jobs)
        check_steps(self.device)


TestMonitor = MonitorMachine.TestCase
TestMonitor.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


@dataclass
class Chance:
    """Raises at the calls that hypothesis chose."""

    fails_at: frozenset[int]
    fault: RenderFault
    calls: int = 0

    def __call__(self, _what: object) -> None:
        self.calls += 1
        if self.calls in self.fails_at:
            raise self.fault


def chances(kind: FaultKind) -> st.SearchStrategy[Chance]:
    numbers = st.frozensets(st.integers(1, 12), max_size=4)
    return numbers.map(lambda fails_at: Chance(fails_at, RenderFault(kind, "render_failed", "scripted")))


JOBS = st.tuples(st.sampled_from(NAMES), SHAPES)


@settings(deadline=None, max_examples=60)
@given(
    script=st.lists(st.one_of(JOBS, st.sampled_from(NAMES)), max_size=40),
    on_prepare=chances(FaultKind.REQUEST),
    on_step=chances(FaultKind.BATCH),
    on_finish=st.one_of(chances(FaultKind.BATCH_MEMORY), chances(FaultKind.REQUEST)),
)
def test_three_threads(
    script: list[tuple[str, tuple[int, int, int]] | str], on_prepare: Chance, on_step: Chance, on_finish: Chance
) -> None:
    """A tuple prepares a job (dropping the one of that name), a name drops; whatever is prepared is admitted."""
    device = ScriptedDevice(rows_max=ROWS_MAX, on_prepare=on_prepare, on_step=on_step, on_finish=on_finish)
    caller = Caller()
    engine = LaneEngine(device, rows_max=ROWS_MAX, finish_queue_rows_max=FINISH_QUEUE_ROWS_MAX)
    engine.start(caller)

    def admit_all() -> None:
        for name in NAMES:
            rows = caller.admissible(name)
            caller.admitted(rows)
            engine.admit(rows)

    try:
        for order in script:
            name = order if isinstance(order, str) else order[0]
            engine.drop(name)
            # From here on the lanes may say nothing of it.
            caller.jobs.pop(name, None)
            if not isinstance(order, str):
                engine.prepare(caller.new_job(*order))
            admit_all()
        with caller.heard:
            while caller.unfinished() and not caller.surprises:
                if any(caller.admissible(name) for name in NAMES):
                    caller.heard.release()
                    admit_all()
                    caller.heard.acquire()
                else:
                    assert caller.heard.wait(WAIT_S), f"nothing more is said, though {caller.unfinished()} are open"
    finally:
        engine.close()
    assert caller.surprises == []
    assert [known.ended for known in caller.jobs.values()] == [1] * len(caller.jobs)
    check_steps(device)
