"""Proves that what is begun ahead follows the device's pace, within its bounds."""

from __future__ import annotations

from darkroom.consumer.core.pace import COVER_S, MEMORY_S, Pace


def test_a_steady_pace_is_measured_and_forgotten() -> None:
    pace = Pace()
    for tick in range(2000):
        pace.left(1, tick / 100)
    assert 90 <= pace.rows_per_s(20.0) <= 101
    assert pace.rows_per_s(20.0 + 10 * MEMORY_S) < 0.01


def test_what_is_begun_covers_the_pace_within_bounds() -> None:
    pace = Pace()
    assert pace.rows_to_begin(0.0, rows_min=8, rows_max=64) == 8
    pace.left(int(30 * MEMORY_S), 0.0)
    assert pace.rows_to_begin(0.0, rows_min=8, rows_max=64) == 30 * COVER_S
    pace.left(100_000, 0.0)
    assert pace.rows_to_begin(0.0, rows_min=8, rows_max=64) == 64
