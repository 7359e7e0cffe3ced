"""Proves the ledger's invariants by name, over any order of arrival, finishing, gaps and restarts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from darkroom.consumer.core.ledger import Ledger
from darkroom.consumer.core.offset_map import Commit, decode_commit
from darkroom.consumer.core.partition_key import PartitionKey

P = PartitionKey("generation.requests", 0)
WINDOW = 16


class LedgerMachine(RuleBasedStateMachine):
    """A partition whose log has records and gaps; the model remembers what truly finished."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(P, Commit(0), WINDOW)
        self.log_end = 0
        self.records: set[int] = set()
        self.finished: set[int] = set()
        self.committed = (0, "")

    @rule(gap=st.integers(0, 3))
    def receive(self, gap: int) -> None:
        offset = self.log_end + gap
        self.records.add(offset)
        self.log_end = offset + 1
        assert self.ledger.receive(offset)
        assert not self.ledger.receive(offset)

    @rule(gap=st.integers(1, 3))
    def control_records(self, gap: int) -> None:
        self.log_end += gap
        self.ledger.advance(self.log_end)

    @precondition(lambda self: self.startable())
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        startable = sorted(self.startable())
        chosen = frozenset(data.draw(st.lists(st.sampled_from(startable), min_size=1, unique=True)))
        plan = self.ledger.plan(chosen)
        assert plan.offset >= self.ledger.base  # base_never_falls
        self.ledger.apply(plan)
        self.finished |= chosen
        self.committed = (plan.offset, plan.metadata)

    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        """A new owner, which commits something while only a part was delivered to it again."""
        base, metadata = self.committed
        self.ledger = Ledger(P, decode_commit(P, base, metadata), WINDOW)
        again = sorted(record for record in self.records if record >= base)
        early = data.draw(st.integers(0, len(again)))
        for index, offset in enumerate(again):
            assert self.ledger.receive(offset) == (offset not in self.finished)
            if index == early and self.startable():
                self.finish(data)
        self.ledger.advance(self.log_end)

    @rule()
    def reopen_and_adopt(self) -> None:
        base, metadata = self.committed
        reopened = Ledger(P, decode_commit(P, base, metadata), WINDOW)
        assert reopened.adopt(self.ledger)
        self.ledger = reopened
        assert not self.ledger.receive(self.log_end - 1)

    def startable(self) -> set[int]:
        received = {offset for offset in self.records - self.finished if offset < self.ledger.position}
        return {offset for offset in received if self.ledger.may_start(offset)}

    @invariant()
    def committed_never_passes_unfinished(self) -> None:
        offset = self.ledger.plan(frozenset()).offset
        assert all(record in self.finished for record in self.records if record < offset)

    @invariant()
    def map_tells_exactly_the_finished(self) -> None:
        plan = self.ledger.plan(frozenset())
        above = {offset for offset in self.finished if offset > plan.offset}
        assert decode_commit(P, plan.offset, plan.metadata).finished == above

    @invariant()
    def window_is_bounded(self) -> None:
        plan = self.ledger.plan(frozenset())
        assert all(offset - plan.offset <= WINDOW for offset in decode_commit(P, plan.offset, plan.metadata).finished)

    @invariant()
    def idle_commits_position(self) -> None:
        if self.records <= self.finished:
            assert self.ledger.plan(frozenset()).offset == self.log_end


TestLedger = LedgerMachine.TestCase


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_adopting_fits_only_inside_of_what_was_received(old_base: int, received: int, new_base: int) -> None:
    previous = Ledger(P, Commit(old_base), 512)
    for offset in range(old_base, old_base + received):
        previous.receive(offset)
    reopened = Ledger(P, Commit(new_base), 512)
    fits = old_base <= new_base <= old_base + received
    assert reopened.adopt(previous) == fits
    assert reopened.position == (old_base + received if fits else new_base)
    assert reopened.unfinished == (old_base + received - new_base if fits else 0)


def test_a_map_that_does_not_verify_is_replayed_not_skipped() -> None:
    commit = decode_commit(P, 10, "dr1.nonsense")
    assert not commit.is_verified
    ledger = Ledger(P, commit, 512)
    assert all(ledger.receive(offset) for offset in range(10, 20))
