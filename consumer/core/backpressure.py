"""When a partition's delivery is paused, and when it goes on: bounds on what waits, with hysteresis.

A partition is paused above its even share of the waiting rows, while records wait that its window cannot
hold, or while all partitions together hold too many bytes; it goes on at half of each. The even share keeps
one hot partition from filling the room for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition import Partition
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.core.waiting import WaitingRoom


class Flow(Enum):
    """A change of a partition's delivery."""

    PAUSE = "pause"
    RESUME = "resume"


class Backpressure:
    """Compares what waits with the bounds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def changes(
        self, partitions: Mapping[PartitionKey, Partition], room: WaitingRoom
    ) -> list[tuple[PartitionKey, Flow]]:
        """The changes that are due, made in `Partition.paused` as well."""
        rows_max = max(2, self._limits.waiting_rows_max // max(1, len(partitions)))
        bytes_total = room.bytes_total
        changes = []
        for key, partition in partitions.items():
            if not (partition.is_open and partition.assigned):
                continue
            rows, parked = room.rows(key), room.parked(key)
            if not partition.paused:
                heavy = rows > 0 and bytes_total >= self._limits.waiting_bytes_max
                if rows >= rows_max or parked or heavy:
                    partition.paused = True
                    changes.append((key, Flow.PAUSE))
            else:
                heavy = rows > 0 and bytes_total > self._limits.waiting_bytes_max // 2
                if rows <= rows_max // 2 and not parked and not heavy:
                    partition.paused = False
                    changes.append((key, Flow.RESUME))
        return changes
