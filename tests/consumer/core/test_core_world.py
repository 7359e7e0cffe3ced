"""Proves that several cores, under faults of every kind, publish each record exactly once and commit to the end.

`promises.check` names the promise that breaks; the message has the seed, and
`pytest tests/consumer/core/test_core_world.py -k "[SEED]"` replays it.
"""

from __future__ import annotations

import pytest

from tests.consumer.core.world import World


@pytest.mark.parametrize("seed", range(150))
def test_every_record_has_one_outcome_whatever_happens(seed: int) -> None:
    World(seed).run()
