"""Proves what happens to jobs from arrival to decision: coalescing, deadlines, cancellations, the store away."""

from __future__ import annotations

import dataclasses

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.jobs import JobState, Verdict, VerdictKind
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition_key import RowKey
from tests.consumer.core.builders import P0, P1, arrive, facts, journal, key, of, opened, to_decided, to_ready

LIMITS = Limits(batch_rows_max=2, ahead_rows_max=1, prepare_ahead_rows_max=4, backoff_s_min=1.0)


def test_the_second_record_of_a_request_waits_for_the_first_and_then_looks_up() -> None:
    core = opened(LIMITS, P0, P1)
    arrive(core, facts(0, request_id="same"))
    assert of(do.LookUp, arrive(core, facts(0, partition=P1, request_id="same"))) == []
    journal(core, core.handle(on.OutcomeAbsent(key(0)), 0.0))
    core.handle(on.Prepared(key(0), "64"), 0.0)
    core.handle(on.StepBoundary((RowKey(key(0), 0),)), 0.0)
    core.handle(on.Rendered(key(0), 10), 0.0)
    assert of(do.LookUp, core.handle(on.Settled(key(0)), 0.0)) == [do.LookUp(key(0, P1))]
    decided = core.handle(on.OutcomeFound(key(0, P1)), 0.0)
    assert of(do.Prepare, decided) == []
    assert [one.jobs for one in of(do.Publish, decided)] == [(key(0, P1),)]


def test_a_follower_leads_when_its_leader_s_partition_is_lost() -> None:
    core = opened(LIMITS, P0, P1)
    arrive(core, facts(0, request_id="same"))
    arrive(core, facts(0, partition=P1, request_id="same"))
    effects = core.handle(on.PartitionsAssigned(frozenset({P1})), 0.0)
    assert do.Forget(key(0)) in effects
    assert of(do.LookUp, effects) == [do.LookUp(key(0, P1))]


def test_a_deadline_that_passed_before_costs_no_device_time_but_is_looked_up_first() -> None:
    core = opened(LIMITS)
    assert of(do.LookUp, arrive(core, facts(0, deadline=5.0), now=6.0)) == [do.LookUp(key(0))]
    effects = core.handle(on.OutcomeAbsent(key(0)), 6.0)
    assert [one.verdict.kind for one in of(do.Settle, effects)] == [VerdictKind.EXPIRED]
    assert of(do.Prepare, effects) == []


def test_a_deadline_that_passes_on_the_device_takes_the_row_off_it() -> None:
    core = opened(LIMITS)
    to_ready(core, [facts(0, deadline=5.0)])
    assert core.wake_at() == 5.0
    effects = core.handle(on.Tick(), 5.0)
    assert do.Leave(key(0)) in effects
    assert [one.verdict.kind for one in of(do.Settle, effects)] == [VerdictKind.EXPIRED]
    assert core.flow.batcher.rows_on_device == 0


def test_a_cancellation_counts_before_and_after_its_request() -> None:
    core = opened(LIMITS)
    core.handle(on.CancellationArrived(("t", "early")), 0.0)
    arrive(core, facts(0, request_id="early"))
    [settle] = of(do.Settle, core.handle(on.OutcomeAbsent(key(0)), 0.0))
    assert settle.verdict.kind is VerdictKind.CANCELLED
    to_ready(core, [facts(1, request_id="late")])
    effects = core.handle(on.CancellationArrived(("t", "late")), 0.0)
    assert do.Leave(key(1)) in effects
    assert [one.verdict.kind for one in of(do.Settle, effects)] == [VerdictKind.CANCELLED]


def test_cancellations_remembered_are_bounded() -> None:
    core = opened(Limits(cancellations_max=2))
    for name in ("one", "two", "three"):
        core.handle(on.CancellationArrived(("t", name)), 0.0)
    assert [core.flow.identities.is_cancelled(("t", name)) for name in ("one", "two", "three")] == [False, True, True]


def test_a_refusal_is_settled_without_preparing_unless_an_outcome_stands() -> None:
    refusal = Verdict(VerdictKind.FAILED, "invalid_request", "no")
    core = opened(LIMITS)
    arrive(core, facts(0, refusal=refusal))
    effects = core.handle(on.OutcomeAbsent(key(0)), 0.0)
    assert of(do.Settle, effects) == [do.Settle(key(0), refusal)]


def test_the_store_s_absence_holds_calls_back_fails_nobody_and_loses_none() -> None:
    core = opened(dataclasses.replace(LIMITS, batch_rows_max=4))
    for offset in range(3):
        arrive(core, facts(offset))
    effects = core.handle(on.StoreFailed(do.LookUp(key(0))), 0.0)
    effects += core.handle(on.StoreFailed(do.LookUp(key(1))), 0.1)
    assert of(do.Settle, effects) == []
    assert core.flow.breaker.is_open
    assert of(do.LookUp, arrive(core, facts(3), now=0.2)) == [], "nobody else is sent against the wall"
    assert core.wake_at() == 1.0
    assert of(do.LookUp, core.handle(on.Tick(), 1.0)) == [do.LookUp(key(0))], "one probe"
    assert core.handle(on.Tick(), 50.0) == ()
    core.handle(on.StoreFailed(do.LookUp(key(0))), 50.0)
    assert core.wake_at() == 52.0, "each failed probe waits twice as long"
    core.handle(on.Tick(), 52.0)
    effects = core.handle(on.OutcomeAbsent(key(1)), 52.1)
    looked_up = {one.job for one in of(do.LookUp, effects)}
    assert not core.flow.breaker.is_open
    assert key(0) in looked_up or core.flow.job(key(0)) is not None
    assert key(3) in looked_up


def test_a_pose_picture_is_read_from_the_store_before_the_job_is_prepared() -> None:
    core = opened(LIMITS)
    arrive(core, facts(0, fetches_pictures=True))
    effects = journal(core, core.handle(on.OutcomeAbsent(key(0)), 0.0))
    assert (of(do.FetchPictures, effects), of(do.Prepare, effects)) == ([do.FetchPictures(key(0))], [])
    assert of(do.Prepare, core.handle(on.PicturesFetched(key(0)), 0.0)) == [do.Prepare(key(0))]


def test_a_decoded_pose_says_nothing_of_the_store() -> None:
    core = opened(dataclasses.replace(LIMITS, batch_rows_max=4))
    for offset in range(2):
        arrive(core, facts(offset))
    journal(core, core.handle(on.OutcomeAbsent(key(0)), 0.0))
    core.handle(on.StoreFailed(do.LookUp(key(1))), 0.0)
    core.handle(on.Prepared(key(0), "64"), 0.1)
    assert core.flow.breaker.is_open
    core.handle(on.JobFaulted(key(0), on.FaultParty.REQUEST, "render_failed", "no"), 0.2)
    assert core.flow.breaker.is_open


def test_a_probe_that_ends_in_its_request_s_fault_leaves_its_turn_to_another_call() -> None:
    core = opened(dataclasses.replace(LIMITS, batch_rows_max=4))
    arrive(core, facts(0, fetches_pictures=True))
    arrive(core, facts(1))
    journal(core, core.handle(on.OutcomeAbsent(key(0)), 0.0))
    core.handle(on.StoreFailed(do.FetchPictures(key(0))), 0.0)
    core.handle(on.StoreFailed(do.LookUp(key(1))), 0.0)
    assert of(do.FetchPictures, core.handle(on.Tick(), 1.0)) == [do.FetchPictures(key(0))]
    fault = on.JobFaulted(key(0), on.FaultParty.REQUEST, "pose_forbidden", "no")
    assert do.LookUp(key(1)) in core.handle(fault, 1.1)


def test_pictures_that_wait_for_the_store_stop_the_device_from_taking_more() -> None:
    core = opened(Limits(batch_rows_max=2, ahead_rows_max=1, unsettled_bytes_max=1000))
    to_ready(core, [facts(0)])
    core.handle(on.StepBoundary((RowKey(key(0), 0),)), 0.0)
    core.handle(on.Rendered(key(0), 1000), 0.0)
    assert of(do.Admit, to_ready(core, [facts(1)])) == []
    assert len(of(do.Admit, core.handle(on.Settled(key(0)), 0.0))) == 1


def test_one_job_s_own_fault_fails_it_at_once_and_an_unknown_one_after_attempts() -> None:
    core = opened(LIMITS)
    arrive(core, facts(0))
    journal(core, core.handle(on.OutcomeAbsent(key(0)), 0.0))
    effects = core.handle(on.JobFaulted(key(0), on.FaultParty.REQUEST, "pose_unreadable", "no"), 0.0)
    assert [one.verdict.code for one in of(do.Settle, effects)] == ["pose_unreadable"]
    arrive(core, facts(1))
    for attempt in range(1, LIMITS.attempts_max + 1):
        journal(core, core.handle(on.OutcomeAbsent(key(1)), 0.0))
        effects = core.handle(on.JobFaulted(key(1), on.FaultParty.UNKNOWN, "render_failed", "no"), 0.0)
        assert bool(of(do.Settle, effects)) == (attempt == LIMITS.attempts_max)


def test_a_look_up_that_fails_for_no_known_reason_is_made_again_before_its_request_fails() -> None:
    core = opened(LIMITS)
    effects = arrive(core, facts(0))
    for _ in range(LIMITS.attempts_max - 1):
        assert [one.job for one in of(do.LookUp, effects)] == [key(0)]
        effects = core.handle(on.JobFaulted(key(0), on.FaultParty.UNKNOWN, "render_failed", "no"), 0.0)
        assert of(do.Settle, effects) == []
    effects = core.handle(on.JobFaulted(key(0), on.FaultParty.UNKNOWN, "render_failed", "no"), 0.0)
    assert [one.verdict.code for one in of(do.Settle, effects)] == ["render_failed"]


def test_a_record_without_a_request_id_is_published_as_it_is() -> None:
    core = opened(LIMITS)
    effects = arrive(core, facts(0, request_id=None))
    assert of(do.LookUp, effects) == []
    assert [one.jobs for one in of(do.Publish, effects)] == [(key(0),)]


def test_outcome_before_publication() -> None:
    core = opened(LIMITS)
    effects = to_decided(core, facts(0))
    assert [one.jobs for one in of(do.Publish, effects)] == [(key(0),)]
    job = core.flow.job(key(0))
    assert job is not None
    assert job.state is JobState.PUBLISHING
