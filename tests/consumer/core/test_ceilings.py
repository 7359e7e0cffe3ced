"""Proves the invariants of `darkroom.consumer.core.ceilings`, each by its name."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from darkroom.consumer.core.ceilings import PROBE_DOUBLINGS_MAX, Ceilings

PROBE_S = 10.0
CAP = 8
moves = st.lists(st.tuples(st.sampled_from(["lift", "fail"]), st.floats(0, 400)), max_size=60)


@given(moves)
def test_a_ceiling_only_rises_after_its_wait(script: list[tuple[str, float]]) -> None:
    ceilings, now, settled_at = Ceilings(PROBE_S), 0.0, 0.0
    ceilings.lower("key", 4, now)
    for move, passed in script:
        now += passed
        before = ceilings.of("key") or CAP
        if move == "fail" and before > 1:
            ceilings.lower("key", before // 2, now)
            assert ceilings.of("key") == before // 2
            settled_at = now
            continue
        ceilings.lift("key", CAP, now)
        after = ceilings.of("key") or CAP
        assert after in (before, min(2 * before, CAP)), "one step at a time"
        if after > before:
            assert now - settled_at >= PROBE_S
            settled_at = now


def test_a_failed_probe_doubles_the_wait_within_bounds() -> None:
    ceilings, now, waits = Ceilings(PROBE_S), 0.0, []
    ceilings.lower("key", 4, now)
    for _ in range(PROBE_DOUBLINGS_MAX + 3):
        wait = PROBE_S
        while True:
            ceilings.lift("key", CAP, now + wait - 0.1)
            if ceilings.of("key") == 8:
                break
            wait += 0.1
        waits.append(round(wait - 0.1))
        now += wait
        ceilings.lower("key", 4, now)
    assert waits == [10, 20, 40, 80, 160, 160, 160]


def test_a_ceiling_that_needs_more_halving_does_not_wait_longer() -> None:
    ceilings = Ceilings(PROBE_S)
    for rows in (4, 2, 1, 0):
        ceilings.lower("key", rows, 0.0)
    assert ceilings.of("key") == 1, "at least one"
    ceilings.lift("key", CAP, PROBE_S)
    assert ceilings.of("key") == 2


def test_a_ceiling_at_the_cap_is_forgotten() -> None:
    ceilings = Ceilings(PROBE_S)
    ceilings.lower("key", 4, 0.0)
    ceilings.lift("key", CAP, 1000.0)
    ceilings.lift("key", CAP, 1000.0 + PROBE_S - 1)
    assert ceilings.of("key") == 8, "not before it held for a wait"
    ceilings.lift("key", CAP, 1000.0 + PROBE_S)
    assert ceilings.of("key") is None
    assert ceilings.of("other") is None
