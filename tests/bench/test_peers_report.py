"""Proves that the peers' bench reports whatever was measured: any pages, any curves, and a run that ended early."""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from darkroom.inference.planning.profile_store import encode_profile
from tests.bench.peers import __main__ as bench
from tests.bench.peers import loads, page, peers_page
from tests.bench.peers.contenders import BATCH, DARKROOM
from tests.bench.peers.goals import goals
from tests.bench.peers.kept import Kept
from tests.inference.profiles import KEY, profile, shape

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

WHOLE = json.loads((Path(page.__file__).parent / "results" / "figures.json").read_text())
COLD = "cold"
"""The page whose figures come together."""


def cut(figures: dict[str, Any], keeps: st.DataObject, depth: int = 0) -> dict[str, Any]:
    """The figures without some pages, curves, loads and contenders."""
    kept: dict[str, Any] = {}
    for name, one in figures.items():
        if name in {"seed", "runs", "killed_at"}:
            kept[name] = one
        elif keeps.draw(st.booleans(), label=name):
            whole = name == COLD or not isinstance(one, dict) or depth == 3 or {"per_second", "requests"} & one.keys()
            kept[name] = one if whole else cut(one, keeps, depth + 1)
        elif isinstance(one, list) and depth:
            kept[name] = one[: keeps.draw(st.integers(0, len(one)), label=f"{name}'s first")]
    return kept


def closed(figure: Any, _path: Path) -> None:
    """Draw nothing: a plot takes longer than all else, and its data were given to it already."""
    from matplotlib import pyplot as plt

    plt.close(figure)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_part_of_the_figures_has_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setattr(page, "_save", closed)
    figures = cut(WHOLE, data)
    page.write(tmp_path, figures)
    report = (tmp_path / "report.md").read_text()
    for one in goals(figures):
        assert one.what in report
    for curve in figures.get("peers", {}).get("backlog", {}):
        assert f"**{curve}**" in report


def test_the_whole_run_has_all_goals_and_plots(tmp_path: Path) -> None:
    page.write(tmp_path, WHOLE)
    assert {one.stem for one in tmp_path.glob("*.png")} == {"backlog", "delay", "scale", "cold"}
    assert len(goals(WHOLE)) == 4 + 8 + 1 + 2 + 1 + 1
    one_curve = {"peers": {"backlog": {"gpu-1024": WHOLE["peers"]["backlog"]["gpu-1024"]}}}
    assert [goal.what.partition(":")[0] for goal in goals(one_curve)] == [
        "gpu-1024 curve, mixed backlog",
        "gpu-1024 curve, uniform backlog",
    ]


def test_figures_are_written_as_they_come() -> None:
    figures: dict[str, Any] = {}
    written: list[dict[str, Any]] = []
    kept = Kept(figures, lambda: written.append(copy.deepcopy(figures)))
    kept.keep(1.0, "backlog", "flat")
    kept.keep(2.0, "backlog", "tiny")
    kept.keep_one_more({"workers": 1}, "workers")
    assert written == [
        {"backlog": {"flat": 1.0}},
        {"backlog": {"flat": 1.0, "tiny": 2.0}},
        {"backlog": {"flat": 1.0, "tiny": 2.0}, "workers": [{"workers": 1}]},
    ]


@pytest.mark.stack
async def test_one_curve_alone_is_measured_and_reported(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = profile(shape(lambda slots: 1.0 + slots / 100, posed=True))
    named = replace(short, key=replace(KEY, measured_on=(("source", "made up"),)))
    (tmp_path / "gpu-1024.json").write_bytes(encode_profile(named))
    monkeypatch.setattr(loads, "CURVES_FOLDER", tmp_path)
    monkeypatch.setattr(peers_page, "KINDS", (BATCH, DARKROOM))
    out = tmp_path / "out"
    asked = argparse.Namespace(out=out, seed=3, only=["peers"], curve=["gpu-1024"], quick=True)
    await bench.measure(stack.environment, tmp_path, asked)
    figures = json.loads((out / "figures.json").read_text())
    assert set(figures["peers"]) == {"backlog"}
    assert set(figures["peers"]["backlog"]) == {"gpu-1024"}
    for contenders in figures["peers"]["backlog"]["gpu-1024"].values():
        assert set(contenders) == {"batch", "batch-256", "darkroom"}
    assert figures["runs"]["peers"]["finished"]
    report = (out / "report.md").read_text()
    assert "gpu-1024 curve, uniform backlog: images/s over the best peer's" in report
    assert "Poisson" not in report
