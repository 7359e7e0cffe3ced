"""Decides what follows a failed step: a smaller batch, a search for the culprit, or one request's failure.

A step is atomic, so its rows are as they were before it and none of the answers changes a picture.
"""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.consumer.core.events import FaultParty
from darkroom.consumer.core.partition_key import RowKey


@dataclass(frozen=True, slots=True)
class SmallerBatch:
    """The device has no memory for so many rows of this shape: remember a ceiling, and let them join again."""

    rows_max: int


@dataclass(frozen=True, slots=True)
class RunApart:
    """Run each group by itself, with nothing else on the device, until the culprit runs alone."""

    groups: tuple[tuple[RowKey, ...], ...]


@dataclass(frozen=True, slots=True)
class FailRow:
    """The row failed alone as often as it may: its request fails."""

    row: RowKey


Remedy = SmallerBatch | RunApart | FailRow


def remedy_for(
    party: FaultParty, rows: tuple[RowKey, ...], failures_alone: int, attempts_max: int, *, shared_by: int
) -> Remedy:
    """The remedy for a step of `rows` (at least one) that failed.

    `shared_by` counts the rows that were in the step: it is more than `rows` where some were dropped meanwhile.
    `failures_alone` counts the failures that a single row has suffered with nothing beside it, this one
    included; it does not matter for more than one row.
    """
    if party is FaultParty.MEMORY and shared_by > 1:
        return SmallerBatch(shared_by // 2)
    if len(rows) > 1:
        half = len(rows) // 2
        return RunApart((rows[:half], rows[half:]))
    if shared_by > 1 or (party is FaultParty.UNKNOWN and failures_alone < attempts_max):
        return RunApart((rows,))
    return FailRow(rows[0])
