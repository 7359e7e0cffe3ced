"""One seed run and told: what tests, the command line and the mutations share."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import structlog

from tests.simulation.faults import Focus
from tests.simulation.invariants import Violation
from tests.simulation.world import World


@dataclass(slots=True)
class Result:
    """How a seed ended."""

    seed: int
    failure: str | None
    """The violation, or None."""
    invariant: str | None
    digest: str
    seconds: float
    history: list[str] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def replay(self) -> str:
        """The one line that runs it again."""
        return f"python -m tests.simulation --seed {self.seed}"


@contextmanager
def silence() -> Iterator[None]:
    """The workers' logs are not printed; a history has its own lines."""
    configuration = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )
    try:
        yield
    finally:
        structlog.configure(**configuration)


def run_seed(seed: int, *, trace: bool = False, focus: Focus | None = None) -> Result:
    """Run one seed to its end."""
    began = time.perf_counter()
    world = World(seed, trace=trace, focus=focus)
    violation: Violation | None = None
    collects = gc.isenabled()
    gc.disable()  # what a dead process left must not be finalised while the world goes on
    try:
        with silence():
            digest = world.run()
    except Violation as broken:
        violation, digest = broken, ""
    finally:
        if collects:
            gc.enable()
    return Result(
        seed=seed,
        failure=None if violation is None else str(violation),
        invariant=None if violation is None else violation.name,
        digest=digest,
        seconds=time.perf_counter() - began,
        history=world.history() if violation is not None else [],
        statuses=dict(world.invariants.statuses),
    )
