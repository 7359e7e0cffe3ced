"""Proves that the README's walk-through works as written: its marked block is run, in a new folder, as a user would."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.stack, pytest.mark.render]


def walk_through() -> str:
    [block] = re.findall(r"<!-- run -->\n```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return block


def test_the_walk_through_runs_as_written(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DARKROOM_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    script = "set -e\ntrap 'darkroom down > /dev/null' EXIT\n" + walk_through()
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    completions = [line for line in lines if "request_id" in line]
    assert [one["status"] for one in completions] == ["succeeded"] * 4
    assert sorted(len(one["images"]) for one in completions) == [1, 1, 1, 2]
    [report] = [line for line in lines if "records" in line]
    assert report["records"] == report["succeeded"] == 4
    assert report["missing"] == report["duplicated"] == report["objects_missing"] == report["objects_corrupt"] == []
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 5
    assert "ok   kafka" in done.stdout
