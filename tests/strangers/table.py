"""The shape of every table of strangers: who writes it, what is written, and the right answer.

A test module holds one table of one kind (records, models, poses, ...) and runs each row against the real parts. The
next input from somebody else's world is a row in one of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import pytest
from _pytest.mark.structures import ParameterSet

GivenT = TypeVar("GivenT")
RightT = TypeVar("RightT")


@dataclass(frozen=True, slots=True)
class Stranger(Generic[GivenT, RightT]):
    """One input as somebody else's product writes it."""

    name: str
    """Unique within its table; the test's id."""
    writer: str
    """The product that writes it, with its version: `confluent-kafka 2.16.1 JSONSerializer`."""
    given: GivenT
    """What arrives: a record, a file, an HTTP call."""
    right: RightT
    """What must come of it."""


def rows(table: Sequence[Stranger[GivenT, RightT]]) -> list[ParameterSet]:
    """Return the rows as pytest parameters. A row without a versioned writer or with a name used twice is an error."""
    names = [row.name for row in table]
    twice = sorted({name for name in names if names.count(name) > 1})
    assert not twice, f"names used twice: {twice}"
    for row in table:
        assert re.search(r"\d", row.writer), f"{row.name}: say which version of {row.writer!r} writes it"
    return [pytest.param(row, id=row.name) for row in table]
