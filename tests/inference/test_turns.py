"""Lanes that take turns: who may go, for how long, and that nobody waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.inference.engine.turns import _CALLS_MAX, Turns
from darkroom.inference.types import Lane, Series

EVERYTHING = dict.fromkeys(Lane, True)
WORK = st.fixed_dictionaries(dict.fromkeys(Lane, st.booleans()))
TAKING_TURNS = [Series.DENOISE_AND_FINISH, Series.ALL]


def only(*lanes: Lane) -> dict[Lane, bool]:
    return {lane: lane in lanes for lane in Lane}


def sequence(turns: Turns, calls: int) -> list[Lane]:
    """Who goes in, one after the other, when every lane always has work."""
    gone = []
    for _ in range(calls):
        going = [lane for lane in Lane if lane in _CALLS_MAX[Series.ALL] and turns.may_enter(lane, EVERYTHING)]
        assert len(going) == 1
        turns.enter(going[0])
        turns.leave(going[0])
        gone.append(going[0])
    return gone


def test_without_turns_all_go_at_once() -> None:
    turns = Turns(Series.NONE)
    for lane in Lane:
        assert turns.may_enter(lane, EVERYTHING)
        turns.enter(lane)
    assert not turns.shared
    assert not turns.may_enter(Lane.FINISH, only(Lane.PREPARE))


def test_denoising_and_decoding_alternate_and_preparing_is_free() -> None:
    turns = Turns(Series.DENOISE_AND_FINISH)
    turns.enter(Lane.DENOISE)
    assert turns.may_enter(Lane.PREPARE, EVERYTHING)
    assert not turns.may_enter(Lane.FINISH, EVERYTHING)
    turns.leave(Lane.DENOISE)
    assert turns.may_enter(Lane.FINISH, EVERYTHING)
    assert not turns.may_enter(Lane.DENOISE, EVERYTHING)
    # Alone with work it goes on: nobody waits for a turn that nobody wants.
    assert turns.may_enter(Lane.DENOISE, only(Lane.DENOISE))


def test_a_turn_that_moves_weights_lasts_and_then_goes_round() -> None:
    gone = sequence(Turns(Series.ALL), 2 * (16 + 50 + 16))
    changes = [lane for index, lane in enumerate(gone) if index == 0 or gone[index - 1] is not lane]
    assert changes == [*Lane, *Lane]


def test_the_turn_passes_to_whoever_has_work_in_the_order_of_the_lanes() -> None:
    turns = Turns(Series.ALL)
    turns.enter(Lane.DENOISE)
    turns.leave(Lane.DENOISE)
    assert turns.may_enter(Lane.FINISH, only(Lane.PREPARE, Lane.FINISH))
    assert not turns.may_enter(Lane.PREPARE, only(Lane.PREPARE, Lane.FINISH))
    assert turns.may_enter(Lane.PREPARE, only(Lane.PREPARE))


@pytest.mark.parametrize("series", TAKING_TURNS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_at_most_one_is_inside_and_nobody_waits_for_ever(series: Series, data: st.DataObject) -> None:
    turns, shared = Turns(series), set(_CALLS_MAX[series])
    waited = dict.fromkeys(shared, 0)
    for work in data.draw(st.lists(WORK, max_size=150)):
        able = [lane for lane in shared if turns.may_enter(lane, work)]
        assert len(able) == (1 if any(work[lane] for lane in shared) else 0)
        for lane in able:
            turns.enter(lane)
            assert not [other for other in shared if turns.may_enter(other, EVERYTHING)]
            turns.leave(lane)
        for lane in shared:
            waited[lane] = 0 if lane in able or not work[lane] else waited[lane] + 1
            others = sum(calls for other, calls in _CALLS_MAX[series].items() if other is not lane)
            assert waited[lane] <= others
