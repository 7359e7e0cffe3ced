"""Proves what follows from a profile: the cost of a step, the cap, estimates for sizes that were not measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.inference.planning.profile import GOOD_SHARE, DeviceProfile, padded
from darkroom.inference.planning.step_curve import StepCurve
from darkroom.inference.types import SHALLOW_SHARE
from tests.inference.profiles import KEY, flat, gaining, profile, shape


def test_a_step_costs_its_unet_slots_and_its_control_slots_and_the_rest() -> None:
    one = replace(shape(posed=True), rest=StepCurve({1: 0.5, 8: 4.0}))
    made = profile(one)
    assert made.step_ms(8, 8, unet_slots=4, control_slots=0) == pytest.approx(gaining(4) + 2.0)
    assert made.step_ms(8, 8, unet_slots=4, control_slots=2) == pytest.approx(gaining(4) + gaining(2) / 2 + 2.0)
    assert made.step_ms(8, 8, unet_slots=3, control_slots=0) == pytest.approx(gaining(3) + 1.5), "between points"


def test_where_padding_is_on_a_step_costs_its_bucket() -> None:
    made = profile(replace(shape(posed=True), buckets=(2, 8, 16)))
    assert made.step_ms(8, 8, unet_slots=3, control_slots=1) == gaining(8) + gaining(2) / 2
    assert made.step_ms(8, 8, unet_slots=8, control_slots=0) == gaining(8), "no pose, no ControlNet"
    assert [padded(slots, (2, 8, 16)) for slots in (1, 2, 9, 17)] == [2, 2, 16, 17]
    assert made.cap(8, 8, rows_max=8) in (4, 8), "three rows would pay for four"


def test_on_a_flat_curve_one_row_is_the_cap() -> None:
    assert profile(shape(flat)).cap(8, 8, rows_max=8) == 1


def test_the_cap_is_the_smallest_batch_with_nearly_the_best_throughput() -> None:
    made = profile(shape(gaining, rows=16))
    rates = {rows: made.rows_per_second(8, 8, rows) for rows in range(1, 17)}
    cap = made.cap(8, 8, rows_max=16)
    assert rates[cap] >= GOOD_SHARE * rates[16] > rates[cap - 1]
    assert made.cap(8, 8, rows_max=2) == 2, "the setting bounds it"
    assert made.cap(8, 8, rows_max=64) == cap, "what was not measured is not counted on"


def test_a_batch_that_falls_behind_is_not_the_cap() -> None:
    points = {1: 10.0, 2: 10.0, 4: 11.0, 8: 40.0, 16: 120.0}
    assert profile(replace(shape(), unet=StepCurve(points))).cap(8, 8, rows_max=8) == 2


@given(
    ms=st.lists(st.floats(0.1, 1000), min_size=2, max_size=6),
    rows_max=st.integers(1, 40),
    side=st.integers(1, 64),
)
def test_no_batch_within_bounds_is_much_better_than_the_cap(ms: list[float], rows_max: int, side: int) -> None:
    one = replace(shape(), unet=StepCurve({1: ms[0]} | {2 << at: each for at, each in enumerate(ms[1:])}))
    made = profile(one)
    cap = made.cap(side, side, rows_max=rows_max)
    known = max(1, min(rows_max, int(one.unet.rows_max / 2 * 64 / side**2)))
    assert 1 <= cap <= known
    best = max(made.rows_per_second(side, side, rows) for rows in range(1, known + 1))
    assert made.rows_per_second(side, side, cap) >= GOOD_SHARE * best
    assert all(made.rows_per_second(side, side, rows) < GOOD_SHARE * best for rows in range(1, cap))


def test_a_size_between_is_estimated_from_the_next_larger_one_by_its_latent_pixels() -> None:
    made = profile(shape(flat, side=32), shape(gaining, side=8))
    assert made.step_ms(16, 16, unet_slots=8, control_slots=0) == flat(2), "a quarter of the pixels a slot"
    assert made.step_ms(16, 16, unet_slots=2, control_slots=0) == flat(1), "never less than one slot of it"
    assert made.cap(16, 16, rows_max=8) == 2, "as many pixels as pay at the larger size"
    assert made.decode_ms(16, 16) == pytest.approx(5.0 / 4)


def test_a_size_above_all_is_estimated_from_the_largest() -> None:
    made = profile(shape(flat, side=4), shape(gaining, side=8, rows=8))
    assert made.step_ms(16, 16, unet_slots=2, control_slots=0) == gaining(8)
    assert made.cap(16, 16, rows_max=8) <= made.cap(8, 8, rows_max=8) // 2
    assert made.cap(64, 64, rows_max=8) == 1, "more pixels in one row than were ever measured"


def test_another_aspect_of_the_same_area_is_the_same() -> None:
    made = profile(shape(gaining, side=8))
    assert made.cap(4, 16, rows_max=8) == made.cap(8, 8, rows_max=8)


def test_a_row_takes_its_share_of_the_steps_and_its_decoding() -> None:
    made = profile(shape(posed=True))
    alone = made.device_seconds(8, 8, steps=20, guided=True, posed=True, rows=1)
    assert alone == pytest.approx((20 * gaining(2) * 1.5 + 5.0) / 1000)
    shared = made.device_seconds(8, 8, steps=20, guided=True, posed=True, rows=4)
    assert shared == pytest.approx((20 * gaining(8) * 1.5 / 4 + 5.0) / 1000)
    measured = profile(replace(shape(flat, posed=True), shallow=StepCurve({1: 2.0, 4: 5.0})))
    economy = measured.device_seconds(8, 8, steps=8, shallow_steps=12, guided=True, posed=True, rows=4)
    full_ms = measured.step_ms(8, 8, unet_slots=8, control_slots=8)
    assert economy == pytest.approx((8 * full_ms / 4 + 12 * 5.0 / 4 + 5.0) / 1000)
    assert measured.shallow_share(8, 8) == pytest.approx(2.0 / (flat(2) * 1.5))
    assert made.shallow_share(8, 8) == SHALLOW_SHARE, "where it was not measured"
    unguided = made.device_seconds(8, 8, steps=20, guided=False, posed=False, rows=1)
    assert unguided == pytest.approx((20 * gaining(1) + 5.0) / 1000)


def test_a_profile_has_each_shape_once_and_at_least_one() -> None:
    with pytest.raises(ValueError, match="at least one"):
        DeviceProfile(KEY, ())
    with pytest.raises(ValueError, match="once"):
        profile(shape(), shape())
