"""What must hold in the core's world after every action, whatever happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.consumer.core.offset_map import decode_commit
from tests.consumer.core.cast import LIMITS, ROWS_MAX

if TYPE_CHECKING:
    from tests.consumer.core.world import World


def check(world: World) -> None:
    """Raises `AssertionError` with the seed and the promise that is broken."""
    for key, one in world.partitions.items():
        assert all(count == 1 for count in one.published.values()), f"seed {world.seed}: duplicated in {key}"
        if one.committed is None:
            continue
        base, metadata = one.committed
        commit = decode_commit(key, base, metadata)
        assert commit.is_verified
        mapped = commit.finished
        for offset, facts in enumerate(one.log):
            if facts is not None and (offset < base or offset in mapped):
                assert one.published[offset], f"seed {world.seed}: {key} {offset} committed without an outcome"
        assert not any(one.published[offset] for offset in range(base, len(one.log)) if offset not in mapped)
    assert world.blamed <= world.poison, f"seed {world.seed}: an innocent request was failed for a crash"
    for worker in world.workers:
        flow = worker.core.flow
        assert flow.batcher.rows_on_device <= LIMITS.batch_rows_max + LIMITS.ahead_rows_max
        assert flow.rows_ahead < LIMITS.prepare_ahead_rows_max + ROWS_MAX
        assert flow.rows_begun < LIMITS.begin_ahead_rows_max + ROWS_MAX
        assert all(count >= 0 for count in flow.rows_in.values())
        rendering = [row.job for row in worker.device]
        identities = [facts.identity for job in set(rendering) if (facts := world.facts(job))]
        assert len(set(identities)) == len(identities), f"seed {world.seed}: one request rendered twice at once"
