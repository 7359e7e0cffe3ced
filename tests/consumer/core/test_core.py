"""Proves the core's rules about partitions: epochs, one publication at a time, backpressure, idle commits, drains."""

from __future__ import annotations

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.lifecycle import Phase
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.offset_map import Commit
from darkroom.consumer.core.partition_key import RowKey
from tests.consumer.core.builders import P0, P1, arrive, facts, key, of, opened, to_decided, to_ready

LIMITS = Limits(batch_rows_max=4, prepare_ahead_rows_max=2, offset_window=8, waiting_rows_max=20)


def test_a_rebalance_opens_what_is_new_closes_what_is_lost_and_lets_the_rest_go_on() -> None:
    core = opened(LIMITS, P0)
    arrive(core, facts(0))
    epoch = core.partitions[P0].epoch
    effects = core.handle(on.PartitionsAssigned(frozenset({P0, P1})), 0.0)
    [opening] = of(do.OpenPartition, effects)
    assert opening.partition == P1
    assert opening.epoch > epoch
    assert not opening.prove_ownership
    assert do.Resume(P0, seek_to=1) in effects, "the consumer's position was reset by the rebalance"
    effects = core.handle(on.PartitionsAssigned(frozenset({P1})), 0.0)
    assert do.ClosePartition(P0) in effects
    assert of(do.OpenPartition, effects) == [], "P1 is being opened already"


def test_a_partition_that_was_paused_for_a_bound_stays_paused_through_a_rebalance() -> None:
    core = opened(Limits(begin_ahead_rows_max=1, waiting_rows_max=4))
    for offset in range(6):
        arrive(core, facts(offset))
    assert core.partitions[P0].paused
    effects = core.handle(on.PartitionsAssigned(frozenset({P0})), 0.0)
    assert effects[-2:] == (do.Resume(P0, seek_to=6), do.Pause(P0))


def test_records_of_a_partition_that_is_not_open_are_ignored() -> None:
    core = Core(LIMITS)
    core.handle(on.Started(), 0.0)
    core.handle(on.PartitionsAssigned(frozenset({P0})), 0.0)
    assert arrive(core, facts(0)) == ()
    assert core.flow.job(key(0)) is None


def test_stale_epochs_change_nothing() -> None:
    core = opened(LIMITS)
    to_decided(core, facts(0))
    stale = core.partitions[P0].epoch
    core.handle(on.PublishFailed(P0, stale, fenced=False), 0.0)
    for event in (
        on.PartitionOpened(P0, stale, Commit(5)),
        on.Published(P0, stale),
        on.PublishFailed(P0, stale, fenced=True),
        on.OpenFailed(P0, stale),
        on.RecordArrived(facts(1), stale),
        on.PositionAdvanced(P0, stale, 9),
    ):
        assert core.handle(event, 0.0) == ()
        assert not core.partitions[P0].is_open
        assert core.partitions[P0].account.position == 1


def test_a_position_behind_what_is_committed_opens_the_partition_again() -> None:
    core = opened(Limits())
    for offset in range(3):
        to_decided(core, facts(offset))
        core.handle(on.Published(P0, core.partitions[P0].epoch), 0.0)
    assert core.partitions[P0].account.base == 3
    before = core.partitions[P0].epoch
    arrive(core, facts(0))  # of a topic that was made anew: taken for one that is finished
    effects = core.handle(on.PositionAdvanced(P0, before, 1), 0.0)
    [again] = of(do.OpenPartition, effects)
    assert again.epoch != before
    assert not core.partitions[P0].is_open, "and nothing is taken until the group has said where it stands"
    opened_again = on.PartitionOpened(P0, again.epoch, Commit(0), fresh=True)  # what was committed is beyond its end
    assert of(do.Resume, core.handle(opened_again, 0.0)) == [do.Resume(P0, seek_to=0)]
    assert of(do.LookUp, arrive(core, facts(0))), "the new record is work"


def test_rows_are_kept_through_a_reopening_and_their_records_not_fetched_again() -> None:
    core = opened(LIMITS)
    to_ready(core, [facts(0)])
    effects = core.handle(on.PublishFailed(P0, core.partitions[P0].epoch, fenced=True), 0.0)
    effects += core.handle(on.PartitionOpened(P0, core.partitions[P0].epoch, Commit(0)), 0.0)
    assert of(do.Forget, effects) == []
    assert of(do.Leave, effects) == []
    assert of(do.Resume, effects) == [do.Resume(P0, seek_to=1)]


def test_one_publication_per_partition_at_a_time() -> None:
    core = opened(LIMITS)
    to_ready(core, [facts(1)])
    first = to_decided(core, facts(2))
    assert [one.jobs for one in of(do.Publish, first)] == [(key(2),)]
    core.handle(on.StepBoundary((_row(1),)), 0.0)
    core.handle(on.Rendered(key(1), 10), 0.0)
    assert of(do.Publish, core.handle(on.Settled(key(1)), 0.0)) == []
    effects = core.handle(on.Published(P0, core.partitions[P0].epoch), 0.0)
    [publish] = of(do.Publish, effects)
    assert publish.jobs == (key(1),)
    assert publish.offset == 3


def test_a_publication_of_unknown_fate_is_settled_by_what_the_group_says() -> None:
    for base, expected in ((0, 1), (1, 0)):
        core = opened(LIMITS)
        to_decided(core, facts(0))
        failed = core.handle(on.PublishFailed(P0, core.partitions[P0].epoch, fenced=False), 0.0)
        assert [one.prove_ownership for one in of(do.OpenPartition, failed)] == [False]
        effects = core.handle(on.PartitionOpened(P0, core.partitions[P0].epoch, Commit(base)), 0.0)
        assert len(of(do.Publish, effects)) == expected
        assert (do.Forget(key(0)) in effects) == (base == 1)


def test_after_a_fence_ownership_is_proven_before_the_partition_is_opened() -> None:
    core = opened(LIMITS)
    to_decided(core, facts(0))
    effects = core.handle(on.PublishFailed(P0, core.partitions[P0].epoch, fenced=True), 0.0)
    assert do.Pause(P0) in effects
    assert [one.prove_ownership for one in of(do.OpenPartition, effects)] == [True]
    assert of(do.Publish, core.handle(on.Tick(), 100.0)) == [], "publication waits for opening"


def test_opening_is_tried_again_and_waits_longer_each_time() -> None:
    core = Core(Limits(backoff_s_min=1.0), jitter=1.0)
    core.handle(on.Started(), 0.0)
    core.handle(on.PartitionsAssigned(frozenset({P0})), 0.0)
    epoch = core.partitions[P0].epoch
    now = 0.0
    for wait in (1.0, 2.0, 4.0):
        core.handle(on.OpenFailed(P0, epoch), now)
        assert core.wake_at() == now + wait
        assert of(do.OpenPartition, core.handle(on.Tick(), now + wait - 0.01)) == []
        now += wait
        assert of(do.OpenPartition, core.handle(on.Tick(), now)) == [do.OpenPartition(P0, epoch, prove_ownership=False)]


def test_paused_partitions_resume() -> None:
    core = opened(Limits(begin_ahead_rows_max=1, waiting_rows_max=4))
    effects = [effect for offset in range(6) for effect in arrive(core, facts(offset))]
    assert of(do.Pause, effects) == [do.Pause(P0)]
    resumed = []
    for offset in range(6):
        resumed += of(do.Resume, core.handle(on.OutcomeFound(key(offset)), 0.0))
    assert resumed == [do.Resume(P0)]


def test_what_the_window_cannot_hold_waits_and_pauses_its_partition_alone() -> None:
    core = opened(Limits(offset_window=2), P0, P1)
    effects = [effect for offset in range(5) for effect in arrive(core, facts(offset))]
    assert [one.job.offset for one in of(do.LookUp, effects)] == [0, 1, 2]
    assert of(do.Pause, effects) == [do.Pause(P0)]
    assert len(of(do.LookUp, arrive(core, facts(0, partition=P1)))) == 1
    core.handle(on.OutcomeFound(key(0)), 0.0)
    effects = list(core.handle(on.Published(P0, core.partitions[P0].epoch), 0.0))
    assert [one.job.offset for one in of(do.LookUp, effects)] == [3]


def test_a_partition_goes_on_as_soon_as_its_window_holds_what_waited_for_it() -> None:
    core = opened(Limits(offset_window=2, begin_ahead_rows_max=1))
    effects = [effect for offset in range(4) for effect in arrive(core, facts(offset))]
    assert of(do.Pause, effects) == [do.Pause(P0)]
    core.handle(on.OutcomeFound(key(0)), 0.0)
    # One other is being looked up and no more may be: nothing leaves the room, only the window has moved.
    effects = list(core.handle(on.Published(P0, core.partitions[P0].epoch), 0.0))
    assert (of(do.LookUp, effects), of(do.Resume, effects)) == ([], [do.Resume(P0)])


def test_a_partition_goes_on_when_its_share_of_the_room_grows() -> None:
    core = opened(Limits(batch_rows_max=1, begin_ahead_rows_max=1, waiting_rows_max=8), P0, P1)
    effects = [effect for offset in range(5) for effect in arrive(core, facts(offset))]
    assert of(do.Pause, effects) == [do.Pause(P0)]
    core.handle(on.PartitionsRevoked(frozenset({P0, P1})), 0.0)
    effects = list(core.handle(on.PartitionsAssigned(frozenset({P0})), 0.0))
    assert of(do.Resume, effects)[-1] == do.Resume(P0)


def test_bytes_that_wait_are_bounded() -> None:
    core = opened(Limits(begin_ahead_rows_max=1, waiting_bytes_max=1000), P0, P1)
    for offset in range(3):
        effects = arrive(core, facts(offset, size_bytes=600))
    assert of(do.Pause, effects) == [do.Pause(P0)], "the partition whose records wait, not the empty one"


def test_the_position_is_committed_when_nothing_is_unfinished() -> None:
    core = opened(Limits(idle_commit_s=0.5))
    epoch = core.partitions[P0].epoch
    core.handle(on.PositionAdvanced(P0, epoch, 7), 1.0)
    assert core.wake_at() == 1.5
    [publish] = of(do.Publish, core.handle(on.Tick(), 1.5))
    assert (publish.jobs, publish.offset) == ((), 7)
    core.handle(on.Published(P0, epoch), 1.6)
    assert of(do.Publish, core.handle(on.Tick(), 99.0)) == [], "once"


def test_a_group_without_offsets_gets_its_first_ones_at_once() -> None:
    core = Core(LIMITS)
    core.handle(on.Started(), 0.0)
    core.handle(on.PartitionsAssigned(frozenset({P0})), 0.0)
    fresh = on.PartitionOpened(P0, core.partitions[P0].epoch, Commit(40), fresh=True)
    [publish] = of(do.Publish, core.handle(fresh, 0.0))
    assert (publish.jobs, publish.offset) == ((), 40)


def test_a_drain_finishes_what_is_on_the_device_and_lets_go_of_the_rest() -> None:
    core = opened(Limits(batch_rows_max=1, ahead_rows_max=1, prepare_ahead_rows_max=4, drain_s=10.0))
    to_ready(core, [facts(offset) for offset in range(4)])
    effects = core.handle(on.DrainRequested(), 0.0)
    assert core.phase is Phase.DRAINING
    assert [one.job.offset for one in of(do.Forget, effects)] == [2, 3]
    assert of(do.Stop, effects) == []
    assert core.handle(on.DrainRequested(), 0.0) == (), "twice is once"
    for offset in (0, 1):
        core.handle(on.StepBoundary((_row(offset),)), 1.0)
        core.handle(on.Rendered(key(offset), 10), 1.0)
        core.handle(on.Settled(key(offset)), 1.0)
        effects = core.handle(on.Published(P0, core.partitions[P0].epoch), 1.0)
    assert of(do.Stop, effects) == [do.Stop(clean=True)]
    assert core.phase is Phase.CLOSED


def test_a_drain_has_a_limit() -> None:
    core = opened(Limits(drain_s=10.0))
    to_ready(core, [facts(0)])
    core.handle(on.DrainRequested(), 0.0)
    assert core.wake_at() == 10.0
    assert of(do.Stop, core.handle(on.Tick(), 10.0)) == [do.Stop(clean=False)]


def test_a_drain_before_the_start_ends_at_once() -> None:
    core = Core(LIMITS)
    assert of(do.Stop, core.handle(on.DrainRequested(), 0.0)) == [do.Stop(clean=True)]


def _row(offset: int) -> RowKey:

    return RowKey(key(offset), 0)
