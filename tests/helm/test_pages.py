"""Proves that the metrics that the pages name are exported by a worker or a gateway."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helm.test_monitoring import exported

DOCS = Path(__file__).resolve().parents[2] / "docs" / "how-to"


@pytest.mark.parametrize("page", ["operate.md", "alerts.md"])
def test_metrics_exist(page: str) -> None:
    named = set(re.findall(r"\bdarkroom_[a-z_]+", (DOCS / page).read_text()))
    assert named
    assert {name for name in named if not {name, f"{name}_count"} & exported().keys()} == set()
