"""Proves what holds of every simulated fleet, whatever its load: nothing is lost, nothing is free, nothing is idle."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.consumer.core.partition_key import JobKey
from darkroom.consumer.planner.autoscaler import Autoscaling, AutoscalingError
from darkroom.consumer.planner.fleet import UnansweredError
from darkroom.consumer.planner.load import DEFAULT_MIX, arrivals_at, bursts, times_of
from darkroom.consumer.planner.topic import TOPIC, Topic
from tests.consumer.planner.loads import poisson_times, run, spec

SCALED = Autoscaling(
    min_replicas=1, max_replicas=6, lag_threshold=6, scale_down_window_s=60, scale_down_period_s=15, cooldown_s=60
)
BURSTS = times_of(bursts(1.0, 4, 60, 300), 0, 600, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 60), min_size=1, max_size=60).map(sorted),
    st.integers(0, 2),
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(4, 9),
)
def test_every_arrival_is_answered_once(times: list[float], least: int, most: int, threshold: int, parts: int) -> None:
    """While workers come and go, and partitions with them."""
    least = min(least, most)
    scaling = Autoscaling(
        least, most, threshold, scale_up_window_s=0, scale_down_window_s=5, scale_down_period_s=15, cooldown_s=15
    )
    done = run(spec(least, autoscaling=scaling, partitions=parts, start_s=7.0), times)
    assert done.answers == [1] * len(times)
    assert all(latency > 0 for latency in done.latencies_s)
    assert all(moment.replicas <= most for moment in done.history)


def test_more_workers_never_lengthen_a_backlog() -> None:
    lasted = [run(spec(workers), [0.0] * 240).last_answer_s for workers in (1, 2, 3, 4, 6)]
    assert all(more <= 1.02 * fewer for fewer, more in pairwise(lasted)), lasted
    assert lasted[-1] < lasted[0] / 4


def test_a_worker_alone_takes_what_its_steps_take() -> None:
    times = [0.0] * 100
    steps = sum(arrival.request.steps for arrival in arrivals_at(times, DEFAULT_MIX, 1))
    done = run(spec(1), times)
    assert done.busy_s == pytest.approx(steps * 0.040)
    assert done.last_answer_s == pytest.approx(done.busy_s, rel=0.02)


def test_seconds_of_workers_are_what_is_paid_for() -> None:
    done = run(spec(3), poisson_times(1.0, 60), until_s=600)
    assert done.replica_s == pytest.approx(3 * 600)
    assert done.busy_s < done.serving_s <= done.replica_s + 3 * (done.ended_at_s - 600)


def test_a_fleet_grows_with_lag_and_goes_back() -> None:
    done = run(spec(1, autoscaling=SCALED), BURSTS, until_s=1200)
    most = max(moment.replicas for moment in done.history)
    assert 2 <= most <= 6
    assert done.history[-1].replicas == 1
    assert done.answers == [1] * len(BURSTS)
    assert done.rebalances > 2
    constant = run(spec(most), BURSTS, until_s=1200)
    assert done.replica_s < 0.8 * constant.replica_s
    assert max(done.latencies_s) > max(constant.latencies_s), "loading a model is waited for"


def test_an_idle_fleet_goes_to_zero_and_wakes_for_the_next_request() -> None:
    scaling = Autoscaling(0, 4, 6, polling_s=15, cooldown_s=60)
    done = run(spec(0, autoscaling=scaling), [0.0, 400.0], until_s=800)
    assert [moment.replicas for moment in done.history if moment.at_s in (300.0, 795.0)] == [0, 0]
    assert done.history[-1].replicas == 0
    assert all(20.0 < latency < 60.0 for latency in done.latencies_s), "a start and a step's worth of work"
    assert done.replica_s < 400


def test_replicas_above_partitions_are_refused() -> None:
    with pytest.raises(AutoscalingError, match="partitions"):
        run(spec(1, partitions=3, autoscaling=SCALED), [0.0])


def test_a_fleet_of_nobody_is_an_error_and_not_a_latency() -> None:
    with pytest.raises(UnansweredError, match="1 of 1"):
        run(spec(0), [0.0])


def test_a_fenced_writer_commits_nothing() -> None:
    topic = Topic(arrivals_at([0.0], DEFAULT_MIX, 1), [0], 1)
    topic.append(0)
    old, _, _ = topic.open(0)
    new, _, _ = topic.open(0)
    job = JobKey(TOPIC, 0, 0)
    assert not topic.commit(0, old, (1, ""), [job], now=1.0)
    assert (topic.lag, topic.unanswered) == (1, 1)
    assert topic.commit(0, new, (1, ""), [job], now=2.0)
    assert (topic.lag, topic.unanswered, topic.answered_at) == (0, 0, [2.0])


def test_the_same_seed_is_the_same_run() -> None:
    first, second = (run(spec(1, autoscaling=SCALED), BURSTS) for _ in range(2))
    assert first == second


def test_the_planner_s_data_travel_with_the_package() -> None:
    root = Path(__file__).resolve().parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert "planner/*.toml" in project["tool"]["setuptools"]["package-data"]["darkroom.consumer"]
