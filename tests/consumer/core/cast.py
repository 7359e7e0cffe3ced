"""Who takes part in the core's world: partitions as the broker has them, and workers with what they have under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from darkroom.consumer.core import effects as do
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.jobs import JobFacts
from darkroom.consumer.core.journal import Boot
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.partition_key import JobKey, PartitionKey, RowKey

TOPIC = "requests"
ROWS_MAX = 3
LIMITS = Limits(
    batch_rows_max=3,
    oom_probe_s=2.0,
    ahead_rows_max=1,
    begin_ahead_rows_max=8,
    prepare_ahead_rows_max=5,
    offset_window=8,
    waiting_rows_max=12,
    backlog_s=4.0,
)
CAPS = {"small": (1, 3), "large": (2, 3)}
"""Rows by batch key: those that pay, and those that are best under a backlog."""


@dataclass
class Partition:
    """What the broker holds of one partition. None in the log is a control record."""

    key: PartitionKey
    log: list[JobFacts | None] = field(default_factory=list)
    committed: tuple[int, str] | None = None
    fence: int = 0
    published: Counter[int] = field(default_factory=Counter)


@dataclass(eq=False)
class Worker:
    """One core with what it has under way."""

    core: Core
    boot: Boot
    under_way: list[do.Effect] = field(default_factory=list)
    assigned: frozenset[PartitionKey] = frozenset()
    positions: dict[PartitionKey, int] = field(default_factory=dict)
    delivering: set[PartitionKey] = field(default_factory=set)
    writers: dict[PartitionKey, int] = field(default_factory=dict)
    device: dict[RowKey, int] = field(default_factory=dict)
    finishing: Counter[JobKey] = field(default_factory=Counter)
    caps: dict[Hashable, int] = field(default_factory=dict)
    """What the engine was told to keep to."""
    frozen: bool = False
