"""Interpolates measured times: of a step by its rows, or of a network's forward by its slots.

A curve is measured because it cannot be guessed: a batch of eight takes eight times as long as one row on a CPU and at
large pictures, and hardly longer than one row at small pictures. `darkroom.inference.planning.profile` holds a device's
curves. A simulated device reads one from a file: a JSON object of milliseconds per step by rows, such as
`{"1": 20.0, "2": 24.0, "8": 61.5}`, for one picture size on one device.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

FILE_BYTES_MAX: Final = 64 * 1024
"""Room for some thousand points, far more than the number of batch sizes."""


class CurveError(ValueError):
    """A curve that cannot be used: one sentence with the reason and an example."""


class StepCurve:
    """Milliseconds by rows (or slots), interpolated between measured points. Curves with the same points are equal."""

    __slots__ = ("_ms", "_rows")

    def __init__(self, ms_by_rows: Mapping[int, float]) -> None:
        """Make a curve of measured points. Raises `CurveError` unless one is for 1 row and all are positive and
        finite."""
        for rows, ms in ms_by_rows.items():
            if rows < 1:
                raise CurveError(f"the curve has a point for {rows} rows: rows are counted from 1")
            if not (math.isfinite(ms) and ms > 0):
                raise CurveError(f"the curve has {ms} ms for {rows} rows: a step takes a positive, finite time")
        if 1 not in ms_by_rows:
            raise CurveError("the curve has no point for 1 row, which all others are measured against: add one")
        self._rows = sorted(ms_by_rows)
        self._ms = [float(ms_by_rows[rows]) for rows in self._rows]

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """The measured points, by rising rows."""
        return tuple(zip(self._rows, self._ms, strict=True))

    @property
    def rows_max(self) -> int:
        """The rows of the last measured point."""
        return self._rows[-1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StepCurve) and self.points == other.points

    def __hash__(self) -> int:
        return hash(self.points)

    def __repr__(self) -> str:
        return f"StepCurve({dict(self.points)})"

    def ms(self, rows: float) -> float:
        """Return the milliseconds of a step of `rows` rows, by linear interpolation.

        Less than one row takes as long as one. Beyond the last point the last line continues, but never downwards; a
        curve of one point is flat.
        """
        rows = max(rows, 1)
        at = bisect_left(self._rows, rows)
        if at < len(self._rows) and self._rows[at] == rows:
            return self._ms[at]
        beyond = at == len(self._rows)
        if beyond:
            if at == 1:
                return self._ms[0]
            at -= 1
        left, right = self._rows[at - 1], self._rows[at]
        slope = (self._ms[at] - self._ms[at - 1]) / (right - left)
        if beyond:
            return self._ms[at] + max(slope, 0.0) * (rows - right)
        return self._ms[at - 1] + slope * (rows - left)


def curve_text(ms_by_rows: Mapping[int, float]) -> str:
    """Return the text of a curve file. Raises `CurveError` as `StepCurve` does."""
    points = StepCurve(ms_by_rows).points
    return json.dumps({str(rows): round(ms, 4) for rows, ms in points}, indent=2) + "\n"


def read_curve(path: Path) -> dict[int, float]:
    """Return the points of a curve file. Raises `CurveError`, which names the file, if it is not a curve."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CurveError(f"the curve file {path} cannot be read ({error.strerror}): name one that can") from error
    if len(content) > FILE_BYTES_MAX:
        raise CurveError(f"the curve file {path} has more than {FILE_BYTES_MAX} bytes: it is not a curve file")
    try:
        points: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CurveError(f"the curve file {path} is not JSON ({error}): {_EXAMPLE}") from error
    if not isinstance(points, dict) or not points:
        raise CurveError(f"the curve file {path} is not a JSON object of points: {_EXAMPLE}")
    try:
        return _points(points)
    except CurveError as error:
        raise CurveError(f"the curve file {path} cannot be used: {error}") from error


_EXAMPLE: Final = 'milliseconds a step by rows look like {"1": 20.0, "2": 24.0}'


def _points(points: dict[str, Any]) -> dict[int, float]:
    ms_by_rows: dict[int, float] = {}
    for key, ms in points.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 6 and str(int(key)) == key):
            raise CurveError(f"{key[:40]!r} is not a number of rows: {_EXAMPLE}")
        if isinstance(ms, bool) or not isinstance(ms, int | float):
            raise CurveError(f"the point for {key} rows is not a number: {_EXAMPLE}")
        ms_by_rows[int(key)] = ms
    StepCurve(ms_by_rows)
    return ms_by_rows
