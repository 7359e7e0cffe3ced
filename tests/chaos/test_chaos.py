"""Proves on a real Kafka and a real S3 server that a kill -9, a zombie and restarts of both servers lose nothing.

Three workers under a mix of requests; one is killed, one frozen until the group has given its partitions away and then
let go on, Kafka and S3 are killed and started again, and one request kills whoever renders it. Then everything must be
finished, once each, with its pictures. `python -m tests.chaos` has the other faults and longer runs.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from darkroom.consumer.stack import Stack
from tests.chaos.run import Plan, run
from tests.chaos.schedule import SESSION_S, Fault, Kind

FAULTS = (
    Fault(Kind.KILL_WORKER, victim=0),
    Fault(Kind.FREEZE_WORKER, victim=1, length_s=SESSION_S + 2),
    Fault(Kind.KILL_KAFKA, length_s=1.0),
    Fault(Kind.KILL_S3, length_s=2.0),
)
SECONDS_MAX = 400.0
"""For the faults, on a busy machine. They take a minute on an idle one."""


@pytest.mark.stack
@pytest.mark.timeout(900)
async def test_nothing_is_lost_or_doubled_under_faults(tmp_path: Path) -> None:
    stack = Stack(tmp_path / "stack")
    await asyncio.to_thread(stack.up)
    try:
        plan = Plan(seed=7, faults=iter(FAULTS), seconds=SECONDS_MAX, rate_per_s=5.0, poisons=1)
        verdict = await run(plan, stack, tmp_path)
    finally:
        await asyncio.to_thread(stack.down)
    assert verdict.is_good, verdict.table()
    assert {kind: row["count"] for kind, row in verdict.faults.items()} == {str(fault.kind): 1 for fault in FAULTS}
    assert all(row["worst_s"] is not None for row in verdict.faults.values()), verdict.table()
    assert verdict.worker_ends["-9"] == 1
    assert verdict.worker_ends["70"] >= 1, "the poison reached a worker"
    assert verdict.outcomes["succeeded"] > 50
    assert verdict.outcomes["replayed"] > 0
    assert verdict.outcomes["cancelled"] > 0
