"""Who may share the next step: `darkroom.inference.engine.step_batch` alone, without threads.

Every (stage, move) pair is walked, and random admissions, drops and steps keep the four invariants that the
docstring of `StepBatch` lists.
"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.inference.engine.step_batch import NEXT_STAGE, HeldJob, HeldRow, Move, RowStage, StepBatch
from darkroom.inference.types import SHALLOW_SHARE, BatchKey, ProgressDetail, RenderedImage, RowId
from tests.inference.scripted import ScriptedRow, job

SMALL, LARGE = BatchKey(8, 8, "r"), BatchKey(16, 16, "r")


def held_job(
    job_id: str, *, key: BatchKey = SMALL, steps: int = 3, count: int = 1, progress: ProgressDetail = "none"
) -> HeldJob[ScriptedRow]:
    held: HeldJob[ScriptedRow] = HeldJob(job(job_id, steps=steps, count=count, progress=progress))
    held.receive([ScriptedRow(RowId(job_id, index), key, steps, seed=index) for index in range(count)])
    return held


def take_step(batch: StepBatch[ScriptedRow]) -> None:
    for row in batch.device_rows:
        row.steps_done += 1


def names(batch: StepBatch[ScriptedRow]) -> list[str]:
    return [held.row_id.job_id for held in batch.rows]


@pytest.mark.parametrize(("stage", "move"), list(itertools.product(RowStage, Move)))
def test_a_move_is_lawful_or_refused_and_changes_nothing(stage: RowStage, move: Move) -> None:
    (held,) = held_job("a").rows
    held.stage = stage
    if (stage, move) in NEXT_STAGE:
        held.move(move)
        assert held.stage is NEXT_STAGE[stage, move]
    else:
        with pytest.raises(ValueError, match=f"row 0 of job 'a' is {stage.value}"):
            held.move(move)
        assert held.stage is stage


def test_rows_board_in_the_order_of_admission_as_room_allows() -> None:
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: 2)
    for name in "abc":
        batch.admit(held_job(name).rows[0])
    batch.board(0.0)
    assert names(batch) == ["a", "b"]
    for _ in range(3):
        take_step(batch)
        batch.stepped(1.0, 1.0)
    batch.board(1.0)
    assert names(batch) == ["c"]


def test_another_key_waits_until_the_device_is_empty_and_the_oldest_goes_first() -> None:
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: 4)
    batch.admit(held_job("small", steps=1).rows[0])
    batch.board(0.0)
    other = BatchKey(4, 4, "r")
    batch.admit(held_job("large", key=LARGE, steps=1).rows[0])
    batch.admit(held_job("other", key=other, steps=1).rows[0])
    batch.admit(held_job("small-2", steps=2).rows[0])
    batch.board(0.0)
    assert names(batch) == ["small", "small-2"]
    seen = []
    while not batch.idle:
        take_step(batch)
        batch.stepped(1.0, 1.0)
        batch.board(1.0)
        seen.append(names(batch))
    assert seen == [["small-2"], ["large"], ["other"], []]


def test_a_discarded_job_leaves_the_queue_at_once_and_the_device_at_the_boundary() -> None:
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: 1)
    running, waiting = held_job("running"), held_job("waiting", key=LARGE)
    batch.admit(running.rows[0])
    batch.board(0.0)
    batch.admit(waiting.rows[0])
    for held in (running, waiting):
        batch.discard(held)
        held.end()
    assert names(batch) == ["running"], "a step may be using its tensors"
    batch.board(0.0)
    assert batch.idle
    assert batch.device_rows == ()


def test_a_boundary_tells_of_living_jobs_only() -> None:
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: 4)
    living, dead = held_job("living", steps=1, progress="steps"), held_job("dead", steps=1, progress="steps")
    for held in (living, dead):
        batch.admit(held.rows[0])
    batch.board(0.0)
    batch.discard(dead)
    dead.end()
    take_step(batch)
    boundary = batch.stepped(1.0, 1.0)
    assert boundary.row_ids == (RowId("living", 0),)
    assert [held.row_id for held in boundary.retired] == [RowId("living", 0)]
    assert boundary.steps_done == {"living": 1}
    assert batch.rows == ()


def test_progress_is_that_of_the_slowest_row_on_the_device() -> None:
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: 4)
    asked, silent = held_job("asked", steps=5, count=2, progress="steps"), held_job("silent", steps=5)
    batch.admit(asked.rows[0])
    batch.admit(silent.rows[0])
    batch.board(0.0)
    take_step(batch)
    assert batch.stepped(1.0, 1.0).steps_done == {"asked": 1}
    batch.admit(asked.rows[1])
    batch.board(1.0)
    take_step(batch)
    boundary = batch.stepped(1.0, 2.0)
    assert boundary.steps_done == {"asked": 1}, "its second row joined a step later"
    assert boundary.joined == 1


def test_timings_of_a_job_over_uneven_steps() -> None:
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: 4)
    first, second = held_job("first", steps=2, count=2), held_job("second", steps=1)
    batch.admit(first.rows[0])
    batch.board(10.0)
    take_step(batch)
    batch.stepped(1.0, 11.0)
    batch.admit(first.rows[1])
    batch.admit(second.rows[0])
    batch.board(11.0)
    take_step(batch)
    batch.stepped(3.0, 14.0)
    batch.board(15.0)
    take_step(batch)
    batch.stepped(0.5, 15.5)
    picture = RenderedImage(b"", 64, 64, 0, "image/png", "png")
    assert not first.took_images(first.rows[1:], [picture], 0.25)
    assert first.took_images(first.rows[:1], [picture], 0.5)
    told = first.rendered()
    assert told.denoise_ms == pytest.approx(5500), "from joining at 10.0 to leaving at 15.5"
    assert told.device_seconds == pytest.approx(1.0 + 1.0 + 1.0 + 0.5)
    assert told.decode_ms == pytest.approx(750)
    assert (told.rows_min, told.rows_max) == (1, 3)
    told = second.rendered()
    assert told.device_seconds == pytest.approx(1.0)
    assert (told.rows_min, told.rows_max) == (3, 3)


def test_a_row_boards_beside_a_full_step_only() -> None:
    """Its own first step is full, too: the two share a forward."""
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: 4)
    running = held_job("a", steps=6)
    running.rows[0].row.shallow = frozenset({1, 2, 4, 5})
    batch.admit(running.rows[0])
    batch.board(0.0)
    boarded = []
    for name in "bcdef":
        take_step(batch)
        batch.stepped(1.0, 1.0)
        batch.admit(held_job(name, steps=1).rows[0])
        batch.board(1.0)
        boarded.append(names(batch)[1:])
    assert boarded == [[], [], ["b", "c", "d"], [], []]


def test_nobody_waits_for_a_full_step_beside_exact_rows_or_on_an_empty_device() -> None:
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: 4)
    economy, exact = held_job("a", steps=4), held_job("b", steps=4)
    economy.rows[0].row.shallow = frozenset({1, 2})
    for held in (economy, exact):
        batch.admit(held.rows[0])
    batch.board(0.0)
    take_step(batch)
    batch.stepped(1.0, 1.0)
    batch.admit(held_job("c").rows[0])
    batch.board(1.0)
    assert names(batch) == ["a", "b", "c"]


def test_a_shallow_step_is_a_small_share_of_the_device_and_is_counted() -> None:
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: 4)
    economy, exact = held_job("a", steps=2), held_job("b", steps=2)
    economy.rows[0].row.shallow = frozenset({1})
    for held in (economy, exact):
        batch.admit(held.rows[0])
    batch.board(0.0)
    shallow = []
    for now in (1.0, 2.0):
        take_step(batch)
        shallow.append(batch.stepped(1.0, now).shallow)
    assert shallow == [0, 1]
    told = [held.rendered() for held in (economy, exact)]
    assert [one.full_steps for one in told] == [1, 2]
    assert told[0].device_seconds == pytest.approx(0.5 + SHALLOW_SHARE / (1 + SHALLOW_SHARE))
    assert sum(one.device_seconds for one in told) == pytest.approx(2.0)


@st.composite
def scripts(draw: st.DrawFn) -> list[tuple[str, int]]:
    return draw(
        st.lists(st.tuples(st.sampled_from(["admit", "board", "step", "fail", "drop"]), st.integers(0, 5)), max_size=80)
    )


@settings(deadline=None, max_examples=200)
@given(script=scripts(), rows_max=st.integers(1, 4))
def test_invariants_of_step_batch(script: list[tuple[str, int]], rows_max: int) -> None:
    batch: StepBatch[ScriptedRow] = StepBatch(lambda _key: rows_max)
    jobs = [held_job(f"{n}", key=SMALL if n % 2 else LARGE, steps=1 + n % 3, count=1 + n % 2) for n in range(6)]
    for held in jobs[::3]:
        for row in held.rows:
            row.row.shallow = frozenset({1})
    admitted: list[HeldRow[ScriptedRow]] = []
    for what, number in script:
        before = batch.rows
        held = jobs[number]
        if what == "admit":
            for row in held.rows:
                if row.stage is RowStage.PREPARED:
                    batch.admit(row)
                    admitted.append(row)
            assert batch.rows is before
        elif what == "drop" and not held.over:
            batch.discard(held)
            held.end()
            assert batch.rows is before
        elif what == "board":
            queue = [row for row in admitted if row.stage is RowStage.JOINING and not row.job.over]
            batch.board(0.0)
            new = [row for row in batch.rows if row not in before]
            staying = [row for row in before if not row.job.over]
            key = (staying or queue)[0].row.batch_key if staying or queue else None
            waits = staying and not any(row.row.next_is_full for row in staying)
            fitting = [] if waits else [row for row in queue if row.row.batch_key == key]
            assert list(batch.rows) == staying + fitting[: rows_max - len(staying)]
            admitted = [row for row in admitted if row not in new]
        elif what == "step" and batch.rows:
            take_step(batch)
            boundary = batch.stepped(1.0, 1.0)
            alive = [row for row in before if not row.job.over]
            assert boundary.row_ids == tuple(row.row_id for row in alive)
            assert list(boundary.retired) == [row for row in alive if row.row.steps_done == row.row.steps_total]
        elif what == "fail" and batch.rows:
            assert batch.put_back() == tuple(row.row_id for row in before if not row.job.over)
            assert batch.rows == ()
            assert all(row.stage is RowStage.PREPARED for row in before if not row.job.over)
        assert len(batch.rows) <= rows_max
        assert len({row.row.batch_key for row in batch.rows}) <= 1
        assert batch.device_rows == tuple(row.row for row in batch.rows)
        assert all(row.row.steps_done < row.row.steps_total for row in batch.rows)
