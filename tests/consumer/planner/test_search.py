"""Proves the search: the smallest fleet that keeps the target, its price, and what is said where there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from darkroom.consumer.planner.figures import figures_of
from darkroom.consumer.planner.gpus import Catalogue, Machine
from darkroom.consumer.planner.load import DEFAULT_MIX, Rate, bursts, steady
from darkroom.consumer.planner.scenario import Scenario
from darkroom.consumer.planner.search import Question, Target, answer, at_price, device_seconds
from tests.consumer.planner.loads import DELAYS, LIMITS, ONE_S, spec

MACHINE = replace(Catalogue().machine("g5.2xlarge", "on_demand"), profile=ONE_S, speed_status="measured")


def question(rate: Rate, seconds: float = 6.0, hours: float = 0.15, **fields: object) -> Question:
    made = {
        "target": Target(0.95, seconds),
        "limits": LIMITS,
        "delays": DELAYS,
        "start_s": 20.0,
        "search_requests": 600,
    } | fields
    return Question(Scenario("test", rate, None, 3600 * hours, DEFAULT_MIX, 1), **made)  # type: ignore[arg-type]


def test_device_seconds_are_the_steps_of_the_mix() -> None:
    assert device_seconds(ONE_S, DEFAULT_MIX, 2) == pytest.approx(28.75 * 0.040)


def test_the_smallest_fleet_that_keeps_the_target_is_found() -> None:
    asked = question(steady(2.0), partitions=48, search_requests=10_000)
    found = answer(asked, MACHINE)
    assert found.figures is not None
    assert found.figures.p95_s <= 6.0
    assert 3 <= found.min_replicas == found.peak_replicas <= 6
    smaller = spec(found.peak_replicas - 1, partitions=48)
    figures = figures_of(smaller, asked.scenario, requests_max=10_000, alone_s=1.15)
    assert figures.p95_s > 6.0
    assert found == answer(asked, MACHINE), "the same question, the same answer"


def test_cost_is_hours_times_price() -> None:
    found = answer(question(steady(2.0)), MACHINE)
    assert found.figures is not None
    usd = found.figures.replicas_mean * 0.15 * 1.008
    assert found.usd_per_1000 == pytest.approx(1000 * usd / found.figures.images)
    spot = at_price(found, Catalogue().machine("g5.2xlarge", "spot"))
    assert spot.usd_per_1000 == pytest.approx(found.usd_per_1000 * 0.506 / 1.008)


def test_partitions_suffice_for_the_largest_fleet() -> None:
    found = answer(question(steady(1.0)), MACHINE)
    assert found.max_replicas <= found.partitions
    assert found.partitions % 12 == 0
    held = answer(question(steady(1.0), partitions=7), MACHINE)
    assert held.partitions == 7
    assert held.max_replicas <= 7


def test_a_load_that_changes_is_cheaper_with_an_autoscaler() -> None:
    asked = question(bursts(0.4, 4, 600, 3600), seconds=120.0, hours=1.0)
    found = answer(asked, MACHINE)
    assert found.figures is not None
    assert found.min_replicas < found.peak_replicas <= found.max_replicas
    assert found.figures.replicas_mean < 0.95 * found.peak_replicas
    assert found.figures.p95_s <= 120.0
    assert max(one.replicas for one in found.figures.history) > found.min_replicas


def test_a_fleet_may_go_to_zero_where_that_is_allowed() -> None:
    rate = Rate((1.0, 0.0, 0.0, 0.0), 300.0)
    found = answer(question(rate, seconds=60.0, hours=1 / 3, scale_to_zero=True), MACHINE)
    assert found.min_replicas == 0
    assert found.figures is not None
    assert min(one.replicas for one in found.figures.history) == 0


@pytest.mark.parametrize(
    ("seconds", "fields", "said"),
    [(0.5, {}, "a request alone takes 1"), (3.0, {"replicas_max": 2}, "not kept by 2 workers")],
)
def test_a_target_that_cannot_be_kept_is_said(seconds: float, fields: dict[str, int], said: str) -> None:
    found = answer(question(steady(2.0), seconds=seconds, **fields), MACHINE)
    assert found.figures is None
    assert said in str(found.refusal)
    assert found.document()["refusal"] == found.refusal


def test_windows_agree_with_the_whole_within_their_error() -> None:
    scenario = Scenario("test", steady(2.0), None, 3600.0, DEFAULT_MIX, 1)
    whole = figures_of(spec(4, partitions=48), scenario, requests_max=1e6, alone_s=1.15)
    sampled = figures_of(spec(4, partitions=48), scenario, requests_max=2_000, alone_s=1.15)
    assert (whole.windows, sampled.windows) == (1, 8)
    assert abs(sampled.p95_s - whole.p95_s) <= 2 * (sampled.p95_s_error + whole.p95_s_error)
    hours, error = sampled.replica_hours_per_1000, sampled.replica_hours_per_1000_error
    assert abs(hours - whole.replica_hours_per_1000) <= 2 * error


def test_a_machine_says_what_was_measured() -> None:
    assert isinstance(MACHINE, Machine)
    assert answer(question(steady(0.5)), MACHINE).document()["speed"]["status"] == "measured"
