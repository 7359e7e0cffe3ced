"""What must hold in the core's world after every action, whatever happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darkroom.consumer.core.batcher import BACKLOG_BATCHES
from darkroom.consumer.core.offset_map import decode_commit
from tests.consumer.core.cast import CAPS, LIMITS, ROWS_MAX, Worker

if TYPE_CHECKING:
    from tests.consumer.core.world import World


def _check_caps(worker: Worker, seed: int) -> None:
    """The engine keeps to the core's cap, and the cap follows the backlog."""
    flow = worker.core.flow
    batcher, waiting = flow.batcher, flow.waiting
    assert batcher.rows_on_device <= LIMITS.batch_rows_max + LIMITS.ahead_rows_max
    assert waiting.device_s >= 0
    key = batcher._device_key if batcher._on_device else batcher._key_to_run()
    if key is not None:
        paying, best = CAPS[str(key)]
        many = waiting.rows > BACKLOG_BATCHES * best and waiting.device_s > LIMITS.backlog_s
        assert batcher.backlog or not many, f"seed {seed}: a backlog that nobody sees"
        told = worker.caps.get(key, paying)
        assert told == (best if batcher.backlog else paying), f"seed {seed}: the engine has another cap"
        rows = waiting.rows + batcher.rows_on_device
        assert not batcher.backlog or rows > paying + 1, f"seed {seed}: a backlog that is gone"


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
        _check_caps(worker, world.seed)
        assert flow.rows_ahead < LIMITS.prepare_ahead_rows_max + ROWS_MAX
        assert flow.rows_begun < LIMITS.begin_ahead_rows_max + ROWS_MAX
        assert all(count >= 0 for count in flow.rows_in.values())
        rendering = [row.job for row in worker.device]
        identities = [facts.identity for job in set(rendering) if (facts := world.facts(job))]
        assert len(set(identities)) == len(identities), f"seed {world.seed}: one request rendered twice at once"
