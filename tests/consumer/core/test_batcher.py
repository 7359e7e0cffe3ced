"""Proves the batcher's rules: the cap, one key at a time, age before key, lingering, ceilings, and running apart."""

from __future__ import annotations

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.events import FaultParty
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
