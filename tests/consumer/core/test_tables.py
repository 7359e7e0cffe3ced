"""Proves the tables: every pair of phase and signal, every pair of job states."""

from __future__ import annotations

from itertools import product

import pytest

from darkroom.consumer.core.jobs import OPEN_TO_INTERRUPTION, TRANSITIONS, JobState
from darkroom.consumer.core.lifecycle import LIFECYCLE, Phase, Signal, after
from darkroom.consumer.core.partition import Job, Partition
from tests.consumer.core.builders import P0, facts


@pytest.mark.parametrize(("phase", "signal"), list(product(Phase, Signal)))
def test_a_signal_moves_the_phase_only_where_the_table_says(phase: Phase, signal: Signal) -> None:
    assert after(phase, signal) is LIFECYCLE.get((phase, signal), phase)
    assert after(Phase.CLOSED, signal) is Phase.CLOSED


def test_every_phase_leads_to_closed() -> None:
    for phase in Phase:
        assert after(after(phase, Signal.DRAIN), Signal.DONE) is Phase.CLOSED


@pytest.mark.parametrize(("start", "end"), list(product(JobState, JobState)))
def test_an_illegal_move_raises_and_changes_nothing(start: JobState, end: JobState) -> None:
    job = Job(facts(0), Partition(P0), state=start)
    if end in TRANSITIONS[start]:
        job.to(end)
        assert job.state is end
        return
    with pytest.raises(AssertionError):
        job.to(end)
    assert job.state is start


def test_every_state_leads_to_publishing() -> None:
    reaching = {JobState.PUBLISHING}
    for _ in JobState:
        reaching |= {state for state, following in TRANSITIONS.items() if following & reaching}
    assert reaching == set(JobState)


def test_what_can_be_interrupted_can_be_settled() -> None:
    assert all(JobState.SETTLING in TRANSITIONS[state] for state in OPEN_TO_INTERRUPTION)
