"""Proves that a rolling restart of three brokers, with `init` and the audit run all the while, loses nothing.

Five to twenty minutes of it, with kills, frozen brokers, guests and withdrawn rights, are `python -m tests.cluster`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster.proof import Plan, run

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack


async def test_a_rolling_restart_with_init_beside_it_loses_and_doubles_nothing(stack: Stack, tmp_path: Path) -> None:
    plan = Plan(seconds=300, rounds_max=3, rate_per_s=5.0, ways=("stop",), extras=False, partitions=4)
    outcome = await run(plan, dict(stack.environment), tmp_path)
    assert outcome.is_good, outcome.table()
    assert outcome.verdict.records > 0
    assert outcome.initialized > 0
