"""Mixes and traces from files."""

from __future__ import annotations

import csv
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from darkroom.consumer.planner.load import ARRIVALS_MAX, DEFAULT_MIX, LATENT_FACTOR, LoadError, Mix

FILE_BYTES_MAX: Final = 64 * 1024 * 1024
"""A million requests, one line each."""


def read_mix(path: Path) -> Mix:
    """A mix file, TOML or JSON. What it leaves out is as in the default mix. Raises `LoadError`."""
    text = _text(path)
    try:
        read = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except ValueError as error:
        raise LoadError(f"The mix file {path} cannot be read ({error}): {_MIX_EXAMPLE}") from error
    known = set(DEFAULT_MIX.document())
    if not isinstance(read, dict) or not set(read) <= known:
        strange = sorted(set(read) - known) if isinstance(read, dict) else ["no table"]
        raise LoadError(f"The mix file {path} has {', '.join(strange)[:80]}: {_MIX_EXAMPLE}")
    try:
        whole = DEFAULT_MIX.document() | read
        return Mix(
            steps={_whole(one, 150): weight for one, weight in _weights(whole["steps"])},
            sizes={_size(one): weight for one, weight in _weights(whole["sizes"])},
            guided=_share(whole["guided"]),
            posed=_share(whole["posed"]),
            counts={_whole(one, 8): weight for one, weight in _weights(whole["count"])},
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise LoadError(f"The mix file {path} cannot be used ({error}): {_MIX_EXAMPLE}") from error


_MIX_EXAMPLE: Final = (
    'a mix looks like steps = {20 = 3, 30 = 1}, sizes = {"1024x1024" = 1}, guided = 1.0, posed = 0.7, count = {1 = 1}.'
)


def _weights(table: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    weights = [(one, float(weight)) for one, weight in table.items()]
    lawful = all(math.isfinite(weight) and weight >= 0 for _, weight in weights)
    if not lawful or sum(weight for _, weight in weights) <= 0:
        raise ValueError("weights are numbers, 0 or more, and not all 0")
    return iter(weights)


def _whole(text: str, most: int) -> int:
    number = int(text)
    if not 1 <= number <= most:
        raise ValueError(f"{number} is not between 1 and {most}")
    return number


def _share(value: Any) -> float:
    share = float(value)
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is no share between 0 and 1")
    return share


def _size(text: str) -> tuple[int, int]:
    width, _, height = text.partition("x")
    size = int(width), int(height)
    if min(size) < LATENT_FACTOR or max(size) > 4096 or any(one % LATENT_FACTOR for one in size):
        raise ValueError(f"{text} is no size: width x height in pixels, multiples of {LATENT_FACTOR}")
    return size


def read_trace(path: Path) -> list[float]:
    """Recorded times, in seconds from the first one, in order.

    JSON lines of numbers or of objects with `at_s`, `timestamp` or `requested_at`, or CSV with such a column (or none
    but the times). Times are seconds, or ISO 8601. Raises `LoadError`.
    """
    text = _text(path)
    try:
        raw = list(_times_csv(text) if path.suffix == ".csv" else _times_jsonl(text))
    except (ValueError, TypeError, KeyError) as error:
        raise LoadError(
            f"The trace {path} cannot be used ({error}): give JSON lines or CSV with seconds or ISO 8601 times in a "
            "column named at_s, timestamp or requested_at."
        ) from error
    if not raw:
        raise LoadError(f"The trace {path} has no times in it: give at least two requests.")
    if len(raw) > ARRIVALS_MAX:
        raise LoadError(f"The trace {path} has {len(raw)} requests: at most {ARRIVALS_MAX} are planned for at once.")
    first = min(raw)
    return sorted(one - first for one in raw)


_COLUMNS: Final = ("at_s", "timestamp", "requested_at")


def _times_jsonl(text: str) -> Iterator[float]:
    for line in text.splitlines():
        if line.strip():
            value = json.loads(line)
            yield _seconds(_named(value) if isinstance(value, dict) else value)


def _times_csv(text: str) -> Iterator[float]:
    rows = list(csv.reader(text.splitlines()))
    place = next((rows[0].index(one) for one in _COLUMNS if rows and one in rows[0]), None)
    for row in rows if place is None else rows[1:]:
        if row:
            yield _seconds(row[place or 0])


def _named(value: Mapping[str, Any]) -> Any:
    name = next((one for one in _COLUMNS if one in value), None)
    if name is None:
        raise ValueError(f"no {', '.join(_COLUMNS)} in {sorted(value)[:5]}")
    return value[name]


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        try:
            seconds = float(value)
        except ValueError:
            seconds = datetime.fromisoformat(value).timestamp()
    else:
        seconds = float(value)
    if not math.isfinite(seconds):
        raise ValueError(f"{value} is no time")
    return seconds


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise LoadError(f"The file {path} cannot be read ({error.strerror}): name one that can.") from error
    if len(content) > FILE_BYTES_MAX:
        raise LoadError(f"The file {path} has more than {FILE_BYTES_MAX} bytes: give a part of it.")
    return content.decode(errors="replace")
