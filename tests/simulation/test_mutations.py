"""Proves that the simulation bites: each bug of `mutations` is caught within a few seeds, by an invariant it names."""

from __future__ import annotations

import pytest

from tests.simulation import mutations
from tests.simulation.mutating import MUTATIONS
from tests.simulation.running import run_seed

SEEDS_MAX = 150
assert mutations.__doc__, "importing it declares them"


@pytest.mark.parametrize("name", list(MUTATIONS))
def test_caught(name: str) -> None:
    mutation = MUTATIONS[name]
    with mutation.apply():
        for seed in range(SEEDS_MAX):
            result = run_seed(seed, focus=mutation.focus)
            if result.invariant is not None:
                assert result.invariant in mutation.caught_by, result.failure
                return
    pytest.fail(f"{name} was not caught by {SEEDS_MAX} seeds")
