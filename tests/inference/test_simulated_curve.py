"""Step curves: what lies between and beyond the points, and that a bad file is refused in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkroom.inference.planning.step_curve import FILE_BYTES_MAX, CurveError, StepCurve, read_curve


def test_points_lines_between_them_and_the_last_line_beyond() -> None:
    curve = StepCurve({1: 20.0, 2: 24.0, 8: 60.0})
    assert [curve.ms(rows) for rows in (1, 2, 5, 8, 10)] == [20.0, 24.0, 42.0, 60.0, 72.0]


def test_one_point_is_flat() -> None:
    assert StepCurve({1: 7.0}).ms(64) == 7.0


def test_beyond_the_last_point_it_never_falls() -> None:
    assert StepCurve({1: 20.0, 2: 10.0}).ms(30) == 10.0


@pytest.mark.parametrize(
    ("points", "what"),
    [
        ({}, "no point for 1 row"),
        ({2: 5.0}, "no point for 1 row"),
        ({1: 5.0, 0: 5.0}, "0 rows"),
        ({1: 0.0}, "positive, finite"),
        ({1: float("nan")}, "positive, finite"),
        ({1: float("inf")}, "positive, finite"),
    ],
)
def test_points_that_make_no_curve(points: dict[int, float], what: str) -> None:
    with pytest.raises(CurveError, match=what):
        StepCurve(points)


@settings(deadline=None, max_examples=100)
@given(
    points=st.dictionaries(st.integers(2, 64), st.floats(0.1, 1000), max_size=8).map(lambda more: {1: 5.0, **more}),
    rows=st.integers(1, 200),
)
def test_a_curve_goes_through_its_points_and_stays_between_neighbours(points: dict[int, float], rows: int) -> None:
    curve = StepCurve(points)
    assert all(curve.ms(at) == ms for at, ms in points.items())
    below = max(at for at in points if at <= rows)
    above = min((at for at in points if at >= rows), default=None)
    low = points[below] if above is None else min(points[below], points[above])
    assert curve.ms(rows) >= low * 0.999
    if above is not None:
        assert curve.ms(rows) <= max(points[below], points[above]) * 1.001


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    path.write_text(json.dumps({"1": 20, "2": 24.5}))
    assert read_curve(path) == {1: 20, 2: 24.5}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 50_000, "is not JSON"),
        ("[1, 2]", "is not a JSON object of points"),
        ("{}", "is not a JSON object of points"),
        ('{"one": 1}', "'one' is not a number of rows"),
        ('{"01": 1}', "'01' is not a number of rows"),
        ('{"-1": 1}', "'-1' is not a number of rows"),
        ('{"9999999": 1}', "'9999999' is not a number of rows"),
        ('{"1": "20"}', "the point for 1 rows is not a number"),
        ('{"1": true}', "the point for 1 rows is not a number"),
        ('{"1": NaN}', "positive, finite"),
        ('{"2": 1}', "no point for 1 row"),
        (" " * (FILE_BYTES_MAX + 1), f"more than {FILE_BYTES_MAX} bytes"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "curve.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CurveError, match=what) as caught:
        read_curve(path)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "curve.json"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(CurveError, match="is not JSON"):
        read_curve(path)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CurveError, match=r"nothing\.json cannot be read \(No such file"):
        read_curve(tmp_path / "nothing.json")
