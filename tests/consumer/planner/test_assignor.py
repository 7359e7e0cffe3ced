"""Proves that shares are even, whole and moved as little as that allows."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.consumer.planner.assignor import shares


def test_a_third_member_takes_four_of_twelve_and_moves_no_more() -> None:
    two = shares({}, ["a", "b"], 12)
    three = shares(two, ["a", "b", "c"], 12)
    assert {name: len(own) for name, own in three.items()} == {"a": 4, "b": 4, "c": 4}
    assert three["a"] <= two["a"]
    assert three["b"] <= two["b"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1), min_size=1, max_size=6), st.integers(1, 30))
def test_every_partition_has_one_member_and_shares_differ_by_one(memberships: list[set[str]], partitions: int) -> None:
    held: dict[str, frozenset[int]] = {}
    for members in memberships:
        before, held = held, shares(held, sorted(members), partitions)
        assert sorted(one for own in held.values() for one in own) == list(range(partitions))
        sizes = [len(own) for own in held.values()]
        assert max(sizes) - min(sizes) <= 1
        stayed = sum(len(held[name] & before.get(name, frozenset())) for name in held)
        possible = sum(min(len(before.get(name, ())), len(own)) for name, own in held.items())
        assert stayed == possible, "nobody gives up what their share has room for"


def test_nobody_has_nothing() -> None:
    assert shares({"a": frozenset({1})}, [], 3) == {}
