"""Proves that the page about a request's way names files, shapes, states and effects that are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from darkroom.consumer.core import effects, events
from darkroom.consumer.core.jobs import JobState

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "explain" / "request.md").read_text()
STEPS = re.findall(r"^\| \d+ \| `([^`]+)` \|", PAGE, re.MULTILINE)
SHAPES = re.findall(r"^\| \d+ \|.*\| `(\w+)` \|$", PAGE, re.MULTILINE)
SOURCES = [
    path.read_text()
    for room in ("consumer", "inference", "producer", "schemas")
    for path in (ROOT / room).rglob("*.py")
]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py)`", PAGE))))
def test_its_files_are_there(name: str) -> None:
    assert (ROOT / name).is_file()


@pytest.mark.parametrize("shape", SHAPES)
def test_its_shapes_are_there(shape: str) -> None:
    assert any(re.search(rf"^class {shape}\b", source, re.MULTILINE) for source in SOURCES)


def test_the_way_is_short() -> None:
    assert 0 < len(STEPS) <= 14
    assert 0 < len(SHAPES) <= 9


def test_it_names_every_state_but_the_detour() -> None:
    assert all(state.value in PAGE for state in JobState if state is not JobState.FOLLOWING)


@pytest.mark.parametrize("row", re.findall(r"^\| `(\w+)` \| .* \| (`.*) \|$", PAGE, re.MULTILINE))
def test_its_effects_and_answers_are_the_core_s(row: tuple[str, str]) -> None:
    effect, answers = row
    assert effect in {one.__name__ for one in get_args(effects.Effect)}
    assert set(re.findall(r"`(\w+)`", answers)) <= {one.__name__ for one in get_args(events.Event)}
