"""Proves the promises of delivery on the real core and driver, in 300 seeded histories full of faults.

Many more seeds: `python -m tests.simulation --seeds 0..10000 --processes 2`.
"""

from __future__ import annotations

import pytest

from tests.simulation.running import run_seed

CHUNKS, SEEDS_PER_CHUNK = 15, 20


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_promise_holds(chunk: int) -> None:
    for seed in range(chunk * SEEDS_PER_CHUNK, (chunk + 1) * SEEDS_PER_CHUNK):
        result = run_seed(seed)
        history = "\n".join(result.history[-60:])
        assert result.failure is None, f"{result.failure}\n{history}\nreplay: {result.replay}"


def test_a_seed_is_one_history() -> None:
    first = [run_seed(seed).digest for seed in range(5)]
    assert [run_seed(seed).digest for seed in reversed(range(5))] == first[::-1]
    assert len(set(first)) == len(first)


def test_the_histories_have_every_kind_of_end() -> None:
    seen = {name for seed in range(40) for name in run_seed(seed).statuses}
    assert seen >= {
        "succeeded",
        "cancelled",
        "deadline_passed",
        "invalid_request",
        "pose_not_found",
        "pose_unreadable",
        "render_failed",
        "request_id_conflict",
        "worker_crash",
    }
