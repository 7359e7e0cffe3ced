"""Which tests share a process of a parallel run, and which run while no other test does.

`make test` spreads tests over processes with pytest-xdist. Tests of one file share a process, as they share fixtures:
a gateway, a worker, a loaded model. Tests of the files in `SPLIT` have no costly fixture in common, and go to whichever
process is free. Tests in `ALONE` have the machine for themselves, at the end: they bound a time from above.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from xdist.scheduler import LoadScopeScheduling

SPLIT: Final = frozenset(
    {
        "tests/integration/test_readme.py",
        "tests/simulation/test_innocence.py",
        "tests/simulation/test_mutations.py",
        "tests/simulation/test_seeds.py",
    }
)

ALONE: Final = frozenset(
    {
        "tests/inference/test_simulated_device.py",
        "tests/schemas/test_policy.py::test_time_is_linear_in_the_prompt",
    }
)
"""Files, and tests without their parameters."""


class FileScheduling(LoadScopeScheduling):
    """Hands out whole files, in the order of collection; of the files in `SPLIT` single tests; in the end `ALONE`.

    xdist's own `--dist loadgroup` cannot: with pytest 9.2 its groups are not seen.
    """

    def _split_scope(self, nodeid: str) -> str:
        if is_alone(nodeid):
            return "alone"
        file = nodeid.partition("::")[0]
        return nodeid if file in SPLIT else file


def is_alone(nodeid: str) -> bool:
    """Whether the test has the machine for itself."""
    return not ALONE.isdisjoint({nodeid.partition("::")[0], nodeid.partition("[")[0]})


def scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    """Return what deals out the tests of this session."""
    return FileScheduling(config, log)


def mark(items: list[pytest.Item]) -> None:
    """Mark what uses the shared stack, so that it can be left out where there is none; put `ALONE` last."""
    items.sort(key=lambda item: is_alone(item.nodeid))  # stable
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stack)


@contextmanager
def turn(item: pytest.Item, folder: Path) -> Iterator[None]:
    """Wait until the test may run: one of `ALONE` for all others, any other for one of `ALONE`.

    Readers and one writer on file locks, which the kernel releases when a process dies. All pass the gate, which a
    waiting writer keeps shut, so that a stream of readers cannot starve it.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    exclusive = is_alone(item.nodeid)
    with (folder / "gate").open("w") as gate, (folder / "running").open("w") as running:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        if not exclusive:
            fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:  # closing is not enough: a process that the test forked may have the files open, too
            fcntl.flock(running, fcntl.LOCK_UN)
            fcntl.flock(gate, fcntl.LOCK_UN)
