"""Proves how a poison request is known: journal first, suspects alone, and only lonely crashes count."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.jobs import JobFacts
from darkroom.consumer.core.journal import ENTRIES_MAX, TRIALS_MAX, Entry, Fate, Journal, lonely_crashes, suspects_of
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.offset_map import (
    METADATA_CHARS_MAX,
    WINDOW_OFFSETS_MAX,
    Commit,
    decode_commit,
    encode_map,
)
from darkroom.consumer.core.partition_key import RowKey
from tests.consumer.core.builders import P0, arrive, facts, journal, key, of, opened, to_ready

OURS, THEIRS, EARLIER = (f"{number:016x}" for number in (1, 2, 3))
LIMITS = Limits(batch_rows_max=4)
boots = st.integers(0, 40).map(lambda number: f"{number:016x}")
entries = st.builds(Entry, st.booleans(), st.lists(boots, max_size=TRIALS_MAX, unique=True).map(tuple))


@given(st.integers(0, 2**40), st.dictionaries(st.integers(0, 4096), entries, max_size=ENTRIES_MAX), boots)
def test_the_journal_comes_back_as_it_was_committed(base: int, deltas: dict[int, Entry], boot: str) -> None:
    written = Journal(boot, {base + delta: entry for delta, entry in deltas.items()})
    text = encode_map(P0, base, [base + 2], written)
    assert decode_commit(P0, base, text).finished == {base + 2}
    assert decode_commit(P0, base, text).journal == (written if deltas else Journal())


def test_the_fullest_journal_fits_beside_the_widest_map() -> None:
    fullest = {
        offset: Entry(True, tuple(f"{offset * TRIALS_MAX + trial:016x}" for trial in range(TRIALS_MAX)))
        for offset in range(ENTRIES_MAX)
    }
    text = encode_map(P0, 0, range(1, 1 + WINDOW_OFFSETS_MAX), Journal(OURS, fullest))
    assert len(text) <= METADATA_CHARS_MAX
    assert decode_commit(P0, 0, text).journal.entries.keys() == fullest.keys()


@pytest.mark.parametrize(
    ("fate", "alone", "suspected", "counts"),
    [
        (Fate.ALIVE, False, False, 0),
        (Fate.ALIVE, True, False, 0),
        (Fate.ENDED, False, False, 0),
        (Fate.ENDED, True, False, 0),
        (Fate.GONE, False, True, 0),
        (Fate.GONE, True, True, 0),
        (Fate.CRASHED, False, True, 0),
        (Fate.CRASHED, True, True, 1),
    ],
)
def test_the_table_of_fates(fate: Fate, alone: bool, suspected: bool, counts: int) -> None:
    suspects = suspects_of(Journal(THEIRS, {7: Entry(alone)}), {THEIRS: fate})
    assert (7 in suspects) == suspected
    assert sum(lonely_crashes(entry, {THEIRS: fate}) for entry in suspects.values()) == counts


def test_a_run_that_was_not_known_to_have_crashed_counts_once_it_is() -> None:
    suspects = suspects_of(Journal(THEIRS, {7: Entry(True)}), {THEIRS: Fate.GONE})
    assert lonely_crashes(suspects[7], {THEIRS: Fate.CRASHED}) == 1
    later = suspects_of(Journal(OURS, suspects), {OURS: Fate.CRASHED, THEIRS: Fate.ENDED})
    assert later[7].trials == (), "a boot that turns out to have ended well is no evidence"


def opened_after(left: Journal, fates: dict[str, Fate]) -> Core:
    core = Core(LIMITS, boot=OURS)
    core.handle(on.Started(), 0.0)
    core.handle(on.PartitionsAssigned(frozenset({P0})), 0.0)
    epoch = core.partitions[P0].epoch
    commit = Commit(0, journal=left)
    effects = core.handle(on.PartitionOpened(P0, epoch, commit, fates={OURS: Fate.ALIVE, **fates}), 0.0)
    journal(core, effects)
    return core


def test_nothing_is_prepared_before_the_journal_is_committed() -> None:
    core = opened_after(Journal(), {})
    arrive(core, facts(0))
    effects = core.handle(on.OutcomeAbsent(key(0)), 0.0)
    assert of(do.Prepare, effects) == []
    [publish] = of(do.Publish, effects)
    assert decode_commit(P0, publish.offset, publish.metadata).journal == Journal(OURS, {0: Entry()})
    assert of(do.Prepare, core.handle(on.Published(P0, publish.epoch), 0.0)) == [do.Prepare(key(0))]


def lanes_full() -> Core:
    """Offset 0 left the device and is not decided, 1 to 3 are handed to it, 4 and 5 ready: nothing is missing."""
    core = opened(Limits(batch_rows_max=2, ahead_rows_max=1, prepare_ahead_rows_max=4, linger_s=0.0), boot=OURS)
    to_ready(core, [facts(offset) for offset in range(5)])
    core.handle(on.StepBoundary((RowKey(key(0), 0),)), 0.0)
    to_ready(core, [facts(5)])
    assert core.flow.rows_ahead == 2
    return core


def look_up(core: Core, record: JobFacts) -> list[do.Publish]:
    """A record comes and has no outcome yet. Returns the transactions that are begun by that."""
    arrive(core, record)
    return of(do.Publish, core.handle(on.OutcomeAbsent(record.key), 0.0))


def settle(core: Core, offset: int) -> do.Publish:
    """Of a row that left the device: its outcome's transaction."""
    core.handle(on.Rendered(key(offset), 10), 0.0)
    [publish] = of(do.Publish, core.handle(on.Settled(key(offset)), 0.0))
    return publish


def test_while_the_lanes_have_enough_the_journal_rides_on_the_next_outcome() -> None:
    core = lanes_full()
    assert look_up(core, facts(6)) == []
    publish = settle(core, 0)
    assert publish.jobs == (key(0),)
    assert 6 in decode_commit(P0, publish.offset, publish.metadata).journal.entries
    assert of(do.Prepare, core.handle(on.Published(P0, publish.epoch), 0.0)) == [do.Prepare(key(6))]


def test_a_journal_is_committed_for_its_own_sake_before_the_lanes_run_dry() -> None:
    core = lanes_full()
    assert look_up(core, facts(6)) == []
    [publish] = of(do.Publish, core.handle(on.StepBoundary((RowKey(key(1), 0),)), 0.0))
    assert publish.jobs == ()
    assert 6 in decode_commit(P0, publish.offset, publish.metadata).journal.entries


def test_whoever_goes_before_all_that_is_named_waits_for_no_outcome() -> None:
    core = lanes_full()
    assert look_up(core, facts(6)) == []
    [publish] = look_up(core, facts(7, priority=9))
    assert {6, 7} <= decode_commit(P0, publish.offset, publish.metadata).journal.entries.keys()


def test_what_another_boot_left_is_written_anew_at_once() -> None:
    core = Core(LIMITS, boot=OURS)
    core.handle(on.Started(), 0.0)
    core.handle(on.PartitionsAssigned(frozenset({P0})), 0.0)
    left = Commit(0, journal=Journal(THEIRS, {3: Entry()}))
    [publish] = of(
        do.Publish,
        core.handle(on.PartitionOpened(P0, core.partitions[P0].epoch, left, fates={THEIRS: Fate.ALIVE}), 0.0),
    )
    assert decode_commit(P0, publish.offset, publish.metadata).journal == Journal()


def test_suspects_run_alone_and_everybody_else_after_them() -> None:
    core = opened_after(Journal(THEIRS, {0: Entry(), 1: Entry()}), {THEIRS: Fate.CRASHED})
    looked_up = [one.job for offset in range(4) for one in of(do.LookUp, arrive(core, facts(offset)))]
    assert looked_up == [key(0)]
    for offset in (0, 1):
        effects = core.handle(on.OutcomeAbsent(key(offset)), 0.0)
        committed = of(do.Publish, effects)[-1]
        left = decode_commit(P0, committed.offset, committed.metadata).journal.entries
        assert left[offset].alone
        assert all(not entry.alone for other, entry in left.items() if other != offset)
        effects = journal(core, effects)
        assert of(do.Prepare, effects) == [do.Prepare(key(offset))]
        core.handle(on.Prepared(key(offset), "64"), 0.0)
        assert core.flow.batcher.rows_on_device == 1
        core.handle(on.StepBoundary((RowKey(key(offset), 0),)), 0.0)
        core.handle(on.Rendered(key(offset), 10), 0.0)
        effects = core.handle(on.Settled(key(offset)), 0.0)
        core.handle(on.Published(P0, core.partitions[P0].epoch), 0.0)
    assert {one.job for one in of(do.LookUp, effects)} == {key(2), key(3)}, "the innocent go on together"


def test_a_request_that_kills_its_worker_alone_so_often_is_failed_and_not_begun() -> None:
    trials = (EARLIER, f"{4:016x}")
    dead = dict.fromkeys((*trials, THEIRS), Fate.CRASHED)
    core = opened_after(Journal(THEIRS, {0: Entry(True, trials)}), dead)
    arrive(core, facts(0))
    effects = core.handle(on.OutcomeAbsent(key(0)), 0.0)
    [settle] = of(do.Settle, effects)
    assert (settle.verdict.code, settle.verdict.crashes) == ("worker_crash", 3)
    assert of(do.Prepare, journal(core, effects)) == []


def test_two_lonely_crashes_are_not_enough() -> None:
    dead = dict.fromkeys((EARLIER, THEIRS), Fate.CRASHED)
    core = opened_after(Journal(THEIRS, {0: Entry(True, (EARLIER,))}), dead)
    arrive(core, facts(0))
    effects = journal(core, core.handle(on.OutcomeAbsent(key(0)), 0.0))
    assert of(do.Settle, effects) == []
    assert of(do.Prepare, effects) == [do.Prepare(key(0))]


def test_freezes_and_evictions_never_count() -> None:
    left = Journal(THEIRS, {0: Entry(True, tuple(f"{number:016x}" for number in range(3, 3 + TRIALS_MAX)))})
    core = opened_after(left, {})
    arrive(core, facts(0))
    effects = core.handle(on.OutcomeAbsent(key(0)), 0.0)
    assert of(do.Settle, effects) == []


def test_the_journal_is_bounded_and_what_it_cannot_hold_waits() -> None:
    core = Core(
        dataclasses.replace(LIMITS, begin_ahead_rows_max=2 * ENTRIES_MAX, prepare_ahead_rows_max=1000), boot=OURS
    )
    core.handle(on.Started(), 0.0)
    core.handle(on.PartitionsAssigned(frozenset({P0})), 0.0)
    core.handle(on.PartitionOpened(P0, core.partitions[P0].epoch, Commit(0)), 0.0)
    effects: list[do.Effect] = []
    for offset in range(ENTRIES_MAX + 5):
        arrive(core, facts(offset))
        effects += journal(core, core.handle(on.OutcomeAbsent(key(offset)), 0.0))
    assert len(of(do.Prepare, effects)) == ENTRIES_MAX
