"""Proves the batcher's rules: the cap, one key at a time, age before key, lingering, ceilings, and running apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.batcher import Batcher, Waiting
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.events import FaultParty
from darkroom.consumer.core.jobs import JobFacts
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition_key import RowKey
from tests.consumer.core.builders import arrive, facts, journal, key, of, opened, to_ready

LIMITS = Limits(batch_rows_max=3, ahead_rows_max=1, prepare_ahead_rows_max=20, linger_s=0.01, key_switch_s=2.0)


def row(offset: int, image: int = 0) -> RowKey:
    return RowKey(key(offset), image)


def admitted(effects: list[do.Effect] | tuple[do.Effect, ...]) -> list[RowKey]:
    return [one for effect in of(do.Admit, effects) for one in effect.rows]


def fill(core: Core, *offsets: int, batch_key: str = "64", now: float = 0.0, cap: int | None = None) -> list[RowKey]:
    return admitted(to_ready(core, [facts(offset) for offset in offsets], now, batch_key, cap))


def test_the_device_takes_the_cap_and_what_is_handed_ahead_and_no_more() -> None:
    core = opened(LIMITS)
    assert fill(core, *range(6)) == [row(offset) for offset in range(4)]
    assert core.flow.batcher.rows_on_device == 4
    assert admitted(core.handle(on.StepBoundary((row(1),)), 0.0)) == [row(4)], "a place that falls free is taken"


def test_priority_goes_first_then_age_and_waiting_makes_up_for_priority() -> None:
    core = opened(LIMITS)
    fill(core, 0, 1, 2, 3)
    ageing = LIMITS.ageing_s
    to_ready(core, [facts(4, waiting_since=ageing * 0.5, priority=4), facts(5, waiting_since=ageing * 3, priority=5)])
    to_ready(core, [facts(6, waiting_since=ageing * 3, priority=9)])
    order = [admitted(core.handle(on.StepBoundary((row(offset),)), 100.0))[0] for offset in (0, 1, 2)]
    assert order == [row(6), row(4), row(5)]


def test_rows_of_another_key_wait_until_the_device_is_empty() -> None:
    core = opened(LIMITS)
    fill(core, 0)
    assert fill(core, 1, batch_key="128") == []
    assert admitted(core.handle(on.StepBoundary((row(0),)), 0.0)) == [row(1)]


def test_a_row_of_another_key_that_waited_long_closes_the_door() -> None:
    core = opened(LIMITS)
    fill(core, 0)
    fill(core, 1, batch_key="128")
    assert fill(core, 2, now=LIMITS.key_switch_s - 0.1) == [row(2)], "until then the running key goes on"
    assert fill(core, 3, now=LIMITS.key_switch_s + 0.1) == []
    core.handle(on.StepBoundary((row(0),)), LIMITS.key_switch_s + 0.2)
    assert admitted(core.handle(on.StepBoundary((row(2),)), LIMITS.key_switch_s + 0.3)) == [row(1)]


def test_an_empty_device_lingers_only_while_something_is_being_prepared_and_not_for_long() -> None:
    core = opened(LIMITS)
    arrive(core, facts(0))
    arrive(core, facts(1))
    journal(core, core.handle(on.OutcomeAbsent(key(0)), 0.0))
    assert admitted(core.handle(on.Prepared(key(0), "64"), 0.0)) == []
    assert core.wake_at() == LIMITS.linger_s
    assert admitted(core.handle(on.Tick(), LIMITS.linger_s)) == [row(0)]
    core = opened(LIMITS)
    assert fill(core, 0) == [row(0)], "with nothing else coming there is nothing to wait for"


def test_running_out_of_memory_halves_the_batch_and_is_remembered() -> None:
    core = opened(LIMITS)
    fill(core, 0, 1, 2)
    core.handle(on.StepFaulted((row(0), row(1), row(2)), FaultParty.MEMORY, "out_of_memory", "no"), 0.0)
    assert core.flow.batcher.rows_on_device == 1
    assert core.flow.batcher.cap("64") == 1
    assert core.flow.batcher.cap("128") == LIMITS.batch_rows_max, "the ceiling is the shape's own"
    assert admitted(core.handle(on.StepBoundary((row(0),)), 0.0)) == [row(1)], "one at a time, none ahead"


def test_the_measured_cap_bounds_the_batch_and_what_is_handed_ahead_follows_it() -> None:
    core = opened(Limits(batch_rows_max=8, ahead_rows_max=4, prepare_ahead_rows_max=20))
    assert fill(core, *range(8), cap=4) == [row(offset) for offset in range(6)], "four, and half of four ahead"
    core = opened(Limits(batch_rows_max=8, ahead_rows_max=4, prepare_ahead_rows_max=20))
    assert fill(core, *range(8), cap=1) == [row(0), row(1)]
    core = opened(LIMITS)
    assert len(fill(core, *range(6), cap=100)) == 4, "the setting stands above it"


def test_a_cap_is_the_shape_s_own() -> None:
    core = opened(LIMITS)
    fill(core, 0, cap=1)
    fill(core, 1, batch_key="128", cap=2)
    assert (core.flow.batcher.cap("64"), core.flow.batcher.cap("128")) == (1, 2)


BACKLOG = Limits(batch_rows_max=8, ahead_rows_max=4, prepare_ahead_rows_max=40, begin_ahead_rows_max=40, backlog_s=10.0)


def two_seconds_each(*offsets: int) -> list[JobFacts]:
    return [facts(offset, device_us=2_000_000) for offset in offsets]


def test_the_cap_follows_the_backlog() -> None:
    core = opened(BACKLOG)
    effects = to_ready(core, two_seconds_each(*range(14)), cap=1, cap_best=4)
    assert admitted(effects) == [row(0), row(1)], "twelve wait: no more than three of the best batches"
    assert of(do.SetCap, effects) == []
    effects = to_ready(core, two_seconds_each(*range(14, 20)), cap=1, cap_best=4)
    assert of(do.SetCap, effects) == [do.SetCap("64", 4)]
    assert len(admitted(effects)) == 4, "four, and half of four ahead, less the two that are there"
    for first in range(17):
        assert of(do.SetCap, core.handle(on.StepBoundary((row(first),)), 0.0)) == [], "three rows or more are there"
    assert core.flow.batcher.cap("64") == 4
    assert of(do.SetCap, core.handle(on.StepBoundary((row(17),)), 0.0)) == [do.SetCap("64", 1)], "it is gone"
    assert admitted(to_ready(core, two_seconds_each(20), cap=1, cap_best=4)) == []


def test_many_quick_rows_are_no_backlog() -> None:
    core = opened(BACKLOG)
    quick = [facts(offset, device_us=100_000) for offset in range(30)]
    assert of(do.SetCap, to_ready(core, quick, cap=1, cap_best=4)) == []


def test_the_engine_keeps_to_the_core_s_cap() -> None:
    """It is told of a new cap before it gets rows that count on it, and of another key's when that key is run."""
    core = opened(BACKLOG)
    effects = to_ready(core, two_seconds_each(*range(9)), cap=1, cap_best=2)
    larger = next(place for place, effect in enumerate(effects) if isinstance(effect, do.SetCap))
    handed = [len(effect.rows) for effect in effects[:larger] if isinstance(effect, do.Admit)]
    assert sum(handed) == 2
    assert any(isinstance(effect, do.Admit) for effect in effects[larger:])
    to_ready(core, two_seconds_each(*range(9, 20)), batch_key="128", cap=2, cap_best=8)
    told: list[do.SetCap] = []
    for first in range(9):
        told += of(do.SetCap, core.handle(on.StepBoundary((row(first),)), 0.0))
    assert told == [do.SetCap("128", 8)]


def test_a_curve_without_a_better_batch_has_one_cap() -> None:
    core = opened(BACKLOG)
    effects = to_ready(core, two_seconds_each(*range(30)), cap=4, cap_best=4)
    assert of(do.SetCap, effects) == []
    assert core.flow.batcher.backlog, "it may as well be one"


def test_a_ceiling_of_memory_stands_under_a_backlog_too() -> None:
    core = opened(BACKLOG)
    to_ready(core, two_seconds_each(*range(40)), cap=1, cap_best=8)
    at_once = tuple(core.flow.batcher._on_device)
    core.handle(on.StepFaulted(at_once[:8], FaultParty.MEMORY, "out_of_memory", "no"), 0.0)
    assert core.flow.batcher.cap("64") == 4
    for first in at_once[8:]:
        core.handle(on.StepBoundary((first,)), BACKLOG.oom_probe_s / 2)
    core.handle(on.Tick(), BACKLOG.oom_probe_s + 1.0)
    assert core.flow.batcher._ceilings.of("64") == 8, "raised, and not forgotten for being above the small cap"


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0, 40), st.integers(0, 12)), max_size=40),
    st.integers(1, 8),
    st.integers(0, 7),
)
def test_a_backlog_begins_above_its_time_and_ends_when_its_rows_are_gone(
    moments: list[tuple[int, float, int]], paying: int, more: int
) -> None:
    limits = Limits(batch_rows_max=8, ahead_rows_max=4, backlog_s=10.0)
    batcher = Batcher(limits, lambda _: 0.0)
    best = min(8, paying + more)
    batcher.know_cap("64", paying, best)
    batcher._device_key, told = "64", paying
    few = paying + min(4, max(1, paying // 2))
    for rows, seconds, handed in moments:
        before = batcher.backlog
        batcher._on_device = {row(offset): None for offset in range(handed)}  # type: ignore[misc]
        changed = batcher.follow_backlog(Waiting(rows, seconds, more_is_coming=False))
        if before:
            assert batcher.backlog == (rows + handed > (few if handed else 0))
        else:
            assert batcher.backlog == (seconds > 10.0 and rows > 3 * (best if handed else 8))
        if changed is not None:
            assert handed
            assert changed == ("64", best if batcher.backlog else paying)
            assert changed[1] != told, "nothing is said twice"
            told = changed[1]
        assert not handed or told == (best if batcher.backlog else paying)


def test_after_a_wait_a_larger_batch_is_tried_and_a_failed_try_is_lowered_again() -> None:
    core = opened(Limits(batch_rows_max=4, ahead_rows_max=2, prepare_ahead_rows_max=20, oom_probe_s=100.0))
    assert len(fill(core, *range(9))) == 6
    at_once = tuple(row(offset) for offset in range(4))
    core.handle(on.StepFaulted(at_once, FaultParty.MEMORY, "out_of_memory", "no"), 0.0)
    batcher = core.flow.batcher
    assert batcher.cap("64") == 2
    core.handle(on.StepBoundary((row(4), row(5))), 1.0)
    assert batcher.rows_on_device == 2, "none ahead"
    core.handle(on.Tick(), 99.0)
    assert batcher.rows_on_device == 2
    core.handle(on.Tick(), 100.0)
    assert batcher.rows_on_device == 4, "the probe: the whole batch, none ahead"
    on_device = tuple(job_row for job_row in batcher._on_device)
    core.handle(on.StepFaulted(on_device, FaultParty.MEMORY, "out_of_memory", "no"), 101.0)
    assert (batcher.rows_on_device, batcher.cap("64")) == (2, 2)
    core.handle(on.Tick(), 300.0)
    assert batcher.rows_on_device == 2, "the wait has doubled"
    core.handle(on.Tick(), 301.0)
    assert batcher.rows_on_device == 4


def test_one_row_without_memory_fails_alone() -> None:
    core = opened(LIMITS)
    fill(core, 0)
    settle = of(do.Settle, core.handle(on.StepFaulted((row(0),), FaultParty.MEMORY, "out_of_memory", "no"), 0.0))
    assert [(one.job, one.verdict.code) for one in settle] == [(key(0), "out_of_memory")]


def test_a_fault_of_nobody_known_is_bisected_until_the_culprit_runs_alone() -> None:
    core = opened(LIMITS)
    running = [facts(offset) for offset in range(3)]
    to_ready(core, running)
    failed: list[do.Settle] = []
    on_device = tuple(row(offset) for offset in range(3))
    for _ in range(20):
        if not on_device:
            break
        if row(1) in on_device:  # the culprit
            effects = core.handle(on.StepFaulted(on_device, FaultParty.UNKNOWN, "render_failed", "no"), 0.0)
        else:
            effects = core.handle(on.StepBoundary(on_device), 0.0)
        failed += of(do.Settle, effects)
        on_device = tuple(admitted(effects))
    assert [one.job for one in failed] == [key(1)]
    assert failed[0].verdict.code == "render_failed"
    assert core.flow.batcher.rows_on_device == 0


def test_a_group_that_was_to_run_apart_and_is_over_holds_up_nobody() -> None:
    core = opened(LIMITS)
    fill(core, 0, 1)
    core.handle(on.StepFaulted((row(0), row(1)), FaultParty.UNKNOWN, "render_failed", "a step failed"), 0.0)
    assert fill(core, 2) == [], "the suspects run first, each by itself"
    core.handle(on.CancellationArrived(facts(1).identity), 0.0)
    assert admitted(core.handle(on.StepBoundary((row(0),)), 0.0)) == [row(2)]
