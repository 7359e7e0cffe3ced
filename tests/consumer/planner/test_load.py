"""Proves loads: their rates, their mixes, and what files of them may look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from darkroom.consumer.planner.load import DEFAULT_MIX, LoadError, arrivals_at, bursts, daily, steady, times_of
from darkroom.consumer.planner.load_files import read_mix, read_trace
from darkroom.consumer.planner.scenario import Scenario


def test_a_process_has_its_rate_and_its_seed() -> None:
    times = times_of(steady(2.0), 0, 5000, 7)
    assert len(times) == pytest.approx(10_000, rel=0.04)
    assert times == sorted(times)
    assert times == times_of(steady(2.0), 0, 5000, 7)
    assert times != times_of(steady(2.0), 0, 5000, 8)


def test_bursts_keep_the_mean_and_have_their_peak() -> None:
    rate = bursts(1.0, 4, 60, 300)
    assert rate.mean == pytest.approx(1.0)
    assert (rate.peak, rate.at(30), rate.at(150)) == (4.0, 0.25, 4.0)
    with pytest.raises(LoadError, match="rarer"):
        bursts(1.0, 6, 60, 300)


def test_a_day_has_quiet_nights() -> None:
    rate = daily(1.0)
    assert rate.mean == pytest.approx(1.0)
    assert rate.at(3 * 3600) < 0.2 < 1.5 < rate.at(14 * 3600)


def test_requests_follow_the_mix() -> None:
    arrivals = arrivals_at([0.0] * 4000, DEFAULT_MIX, 3)
    assert {one.request.steps for one in arrivals} == {20, 25, 30, 40}
    assert sum(one.request.pose is not None for one in arrivals) / 4000 == pytest.approx(0.7, abs=0.03)
    assert arrivals[0].batch_key[:2] == (128, 128)


def test_a_mix_file_changes_what_it_names(tmp_path: Path) -> None:
    path = tmp_path / "mix.toml"
    path.write_text('steps = {8 = 1}\nsizes = {"512x768" = 2, "1024x1024" = 1}\nposed = 0\ncount = {2 = 1}\n')
    mix = read_mix(path)
    assert (mix.steps, mix.posed, mix.guided, mix.images_mean) == ({8: 1}, 0, DEFAULT_MIX.guided, 2)
    assert arrivals_at([0.0] * 50, mix, 1)[0].batch_key[:2] in {(96, 64), (128, 128)}


@pytest.mark.parametrize(
    "text",
    ["steps = {0 = 1}", "steps = {20 = -1}", "sizes = {big = 1}", "stops = {20 = 1}", "posed = 2", "count = {}", "["],
)
def test_a_mix_that_cannot_be_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mix.toml"
    path.write_text(text)
    with pytest.raises(LoadError, match="a mix looks like"):
        read_mix(path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "12.5\n10\n20\n"),
        ("a.jsonl", '{"at_s": 12.5}\n{"at_s": 10}\n{"at_s": 20}\n'),
        ("a.jsonl", '{"requested_at": "2026-11-24T00:00:02.5+00:00"}\n{"requested_at": "2026-11-24T00:00:00+00:00"}\n'
                    '{"requested_at": "2026-11-24T00:00:10+00:00"}\n'),
        ("a.csv", "id,timestamp\na,12.5\nb,10\nc,20\n"),
        ("a.csv", "12.5\n10\n20\n"),
    ],
)  # fmt: skip
def test_a_trace_counts_from_its_first_request(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_trace(tmp_path / name) == [0.0, 2.5, 10.0]


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", ""), ("a.jsonl", '{"x": 1}'), ("a.csv", "noon"), ("b", "nan")])
def test_a_trace_that_is_none_is_one_sentence(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LoadError, match="The trace"):
        read_trace(tmp_path / name)


def test_a_long_time_is_looked_at_in_even_windows() -> None:
    day = Scenario("day", daily(1.0), None, 86_400, DEFAULT_MIX, 1)
    assert day.requests_expected == pytest.approx(86_400, rel=0.01)
    windows = day.windows(4_000)
    assert len(windows) == 8
    assert sum(len(day.arrivals(one)) for one in windows) == pytest.approx(4_000, rel=0.3)
    assert all(one.warm_s < one.begin_s < one.end_s <= 86_400 for one in windows)
    assert len(day.windows(100_000)) == 1
    assert all(one.end_s - one.begin_s == pytest.approx(600) for one in day.windows(4_000, 600))
    assert len(day.windows(4_000, 8_000)) == 1


def test_a_trace_is_cut_into_the_same_windows() -> None:
    times = times_of(steady(1.0), 0, 6000, 1)
    trace = Scenario("trace", None, times, 6000, DEFAULT_MIX, 1)
    window = trace.windows(600)[3]
    arrivals = trace.arrivals(window)
    assert arrivals[0].at_s >= 0
    assert len(arrivals) == sum(window.warm_s <= at < window.end_s for at in times)
