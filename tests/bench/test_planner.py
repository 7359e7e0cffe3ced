"""Proves that the bench's comparison compares: a run that the planner made itself differs from it by nothing, one that
was slower differs, and single requests tell steps from all beside them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from darkroom.consumer.planner.topic import Delays
from tests.bench.planner import CURVE, WORKERS, Seen, _alone, _compared, section

DELAYS = Delays(0.01, 0.02, 0.01, 0.03)


def seen(published: list[float]) -> list[Seen]:
    times = [0.4 * number for number in range(len(published))]
    return [
        Seen(100.0 + at, (20, 30)[number % 2], number % 12, number % 12 // (12 // WORKERS), 100.0 + done)
        for number, (at, done) in enumerate(zip(times, published, strict=True))
    ]


def test_what_was_slower_than_foretold_differs_by_that_much() -> None:
    guessed = seen([10.0 + number for number in range(24)])
    planned = _compared("any", guessed, CURVE, DELAYS).planned
    slower = replace(_compared("any", guessed, CURVE, DELAYS), measured={n: 1.25 * v for n, v in planned.items()})
    assert slower.worst == pytest.approx(0.2)
    assert replace(slower, measured=planned).worst == 0
    twice = _compared("any", guessed, {rows: 2 * ms for rows, ms in CURVE.items()}, DELAYS).planned
    assert twice["p50_s"] > 1.8 * planned["p50_s"]


def test_single_requests_tell_a_step_s_time_from_the_rest() -> None:
    alone = [Seen(0.0, steps, 0, 0, steps * 0.062 + 0.3) for steps in (10, 60, 10, 60, 10, 60)]
    late_ms, delays = _alone(alone)
    assert late_ms == pytest.approx(62 - CURVE[1])
    beside_s = delays.look_up_s + 2 * delays.commit_s + delays.prepare_s + delays.settle_s
    assert beside_s == pytest.approx(0.3)


def test_the_page_shows_both_sides() -> None:
    one = {"load": "backlog", "requests": 3, "measured": {"p50_s": 2.0}, "planned": {"p50_s": 1.5}, "worst": 0.25}
    figures = {"workers": 2, "curve": {}, "goal": 0.15, "late_ms": 1.0, "delays": {"commit_s": 0.1}, "compared": [one]}
    assert "| backlog | 3 | 2.00, 1.50 (0.75) | 25.0% |" in section(figures)
