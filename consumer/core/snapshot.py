"""The core's state as others may see it: metrics, readiness and the planner read this and nothing else of the core."""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.consumer.core.lifecycle import Phase
from darkroom.consumer.core.partition_key import JobKey, PartitionKey


@dataclass(frozen=True, slots=True)
class PartitionSnapshot:
    """One assigned partition. Offsets are None until it is opened for the first time."""

    key: PartitionKey
    is_open: bool
    base: int | None = None
    """The committed offset."""
    position: int | None = None
    """The next offset to receive."""
    unfinished: int = 0
    """Received records without a committed outcome."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment of a core. Taken from another thread its counts may be an event apart."""

    phase: Phase
    store_is_away: bool
    partitions: tuple[PartitionSnapshot, ...]
    rows_waiting: int
    """Rows that were received and not handed to the device."""
    rows_on_device: int
    unsettled_bytes: int
    """Finished pictures that wait for the store."""
    jobs_to_render: frozenset[JobKey]
    """Jobs that still need the device."""
