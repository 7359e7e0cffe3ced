"""Proves the model of KEDA and the HPA against what was read of them, and what was found live."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.consumer.planner.autoscaler import Autoscaler, Autoscaling, AutoscalingError, asked_for, reported_lag

FREE = Autoscaling(
    min_replicas=1,
    max_replicas=100,
    lag_threshold=10,
    scale_up_window_s=0,
    scale_up_pods=100,
    scale_down_window_s=0,
    scale_down_pods=100,
)


def changed(**fields: float) -> Autoscaling:
    return Autoscaling(**{name: getattr(FREE, name) for name in Autoscaling.__slots__} | fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lag", "threshold", "partitions", "replicas", "asked"),
    [
        (21, 5, 4, 0, 5),  # found live: 4 partitions, threshold 5, lag 21 gave 5 replicas
        (25, 5, 4, 0, 4),  # one more whole threshold, and the bound holds
        (1000, 5, 4, 0, 4),
        (4, 5, 4, 3, 1),  # found live: control records of a transactional producer hold one replica for ever
        (0, 5, 4, 3, 0),
        (21, 10, 12, 2, 2),  # the tolerance keeps replicas below the last step (1.05 is within 0.1)
        (23, 10, 12, 2, 3),
        (18, 10, 12, 2, 2),
        (17, 10, 12, 2, 2),  # outside of the tolerance, and the ceiling says the same
        (100, 10, 12, 1, 10),  # the target is of the total, per replica
    ],
)
def test_replicas_by_one_reading(lag: int, threshold: int, partitions: int, replicas: int, asked: int) -> None:
    assert asked_for(reported_lag(lag, threshold, partitions), threshold, replicas, 0.1) == asked


def test_the_maximum_forbids_the_fifth_replica() -> None:
    settings = changed(max_replicas=4, lag_threshold=5)
    assert Autoscaler(settings).look(0, 21, 1, 4) == 4
    with pytest.raises(AutoscalingError, match="1 idle"):
        changed(max_replicas=5).check(4)


@pytest.mark.parametrize("fields", [{"min_replicas": 3, "max_replicas": 2}, {"max_replicas": 0}, {"lag_threshold": 0}])
def test_settings_that_cannot_be_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(AutoscalingError):
        changed(**fields).check(100)


def test_only_partitions_with_lag_count() -> None:
    assert Autoscaler(FREE).look(0, 1000, 1, 3) == 3


def test_a_rise_takes_the_least_of_its_window_and_a_fall_the_most() -> None:
    scaler = Autoscaler(changed(scale_up_window_s=30, scale_down_window_s=60))
    assert scaler.look(0, 10, 1, 12) == 1
    assert scaler.look(15, 100, 1, 12) == 1, "a moment's lag"
    assert scaler.look(30, 100, 1, 12) == 1
    assert scaler.look(45, 90, 1, 12) == 9
    assert scaler.look(60, 10, 9, 12) == 9, "the last minute asked for more"
    assert scaler.look(106, 10, 9, 12) == 1


def test_rates_bound_each_change() -> None:
    scaler = Autoscaler(changed(scale_up_pods=4, scale_up_period_s=60, scale_down_pods=1, scale_down_period_s=120))
    assert scaler.look(0, 500, 2, 50) == 6
    assert scaler.look(15, 500, 6, 50) == 6, "four a minute"
    assert scaler.look(60, 500, 6, 50) == 10
    assert scaler.look(75, 1, 10, 50) == 9
    assert scaler.look(90, 1, 9, 50) == 9
    assert scaler.look(195, 1, 9, 50) == 8


def test_between_zero_and_one_activation_decides() -> None:
    scaler = Autoscaler(changed(min_replicas=0, activation_lag=5, polling_s=30, cooldown_s=60))
    assert scaler.look(0, 5, 0, 1) == 0, "not above"
    assert scaler.look(15, 6, 0, 1) == 0, "not a poll"
    assert scaler.look(30, 6, 0, 1) == 1
    assert scaler.look(60, 0, 1, 0) == 1
    assert scaler.look(75, 0, 1, 0) == 1, "the HPA never goes below one"
    assert scaler.look(90, 0, 1, 0) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40), st.integers(0, 3), st.integers(3, 12))
def test_replicas_stay_within_their_bounds(lags: list[int], least: int, most: int) -> None:
    settings = Autoscaling(min_replicas=least, max_replicas=most, lag_threshold=7)
    settings.check(12)
    scaler, replicas = Autoscaler(settings), least
    for number, lag in enumerate(lags):
        replicas = scaler.look(15.0 * number, lag, replicas, 12)
        assert least <= replicas <= most
