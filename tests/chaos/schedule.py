"""Which faults come when: a sequence that follows from a seed alone. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """The faults."""

    KILL_WORKER = "kill -9 of a worker"
    FREEZE_WORKER = "worker frozen beyond its session (SIGSTOP, SIGCONT)"
    DRAIN_WORKER = "worker drained (SIGTERM) and started again"
    CUT_OFF_WORKER = "worker cut off from Kafka beyond its session"
    KILL_KAFKA = "Kafka killed and started again"
    FREEZE_KAFKA = "Kafka frozen"
    SLOW_KAFKA = "slow connections to Kafka"
    CUT_KAFKA = "connections to Kafka reset"
    KILL_S3 = "S3 killed and started again"
    FREEZE_S3 = "S3 frozen"
    SLOW_S3 = "slow connections to S3"
    CUT_S3 = "connections to S3 reset"
    CUT_OFF_S3 = "worker cut off from S3"
    ROLLING_RESTART = "rolling restart of all workers"
    ADD_PARTITIONS = "partitions added"


SESSION_S = 6.0
"""The workers' session time-out in these runs. Faults that are to outlast it last longer."""

_LENGTHS_S: dict[Kind, tuple[float, float]] = {
    Kind.FREEZE_WORKER: (SESSION_S + 1, SESSION_S + 8),
    Kind.CUT_OFF_WORKER: (SESSION_S + 1, SESSION_S + 8),
    Kind.KILL_KAFKA: (0.0, 6.0),
    Kind.FREEZE_KAFKA: (2.0, 14.0),
    Kind.SLOW_KAFKA: (5.0, 12.0),
    Kind.CUT_KAFKA: (1.0, 5.0),
    Kind.KILL_S3: (0.0, 8.0),
    Kind.FREEZE_S3: (2.0, 10.0),
    Kind.SLOW_S3: (5.0, 12.0),
    Kind.CUT_S3: (1.0, 5.0),
    Kind.CUT_OFF_S3: (3.0, 10.0),
}
_BESIDE_ANOTHER = 0.3
"""How often the next fault comes together with the one before."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that is to come."""

    kind: Kind
    victim: int = 0
    """Of a fault that hits one worker: which, by place."""
    length_s: float = 0.0
    """From its beginning to its end; 0 where it is but a moment."""
    gap_s: float = 1.0
    """Quiet before it, after all workers have recovered from the faults before."""
    beside: bool = False
    """It comes together with the one before, without a gap."""


def schedule(seed: int, workers: int) -> Iterator[Fault]:
    """Faults without end. Each kind comes once before any comes again."""
    chance = random.Random(seed)
    while True:
        kinds = list(Kind)
        chance.shuffle(kinds)
        for kind in kinds:
            low, high = _LENGTHS_S.get(kind, (0.0, 0.0))
            yield Fault(
                kind,
                victim=chance.randrange(workers),
                length_s=chance.uniform(low, high),
                gap_s=chance.uniform(0.5, 3.0),
                beside=chance.random() < _BESIDE_ANOTHER,
            )


def together(faults: Iterator[Fault]) -> Iterator[list[Fault]]:
    """The faults in groups that come at once."""
    group: list[Fault] = []
    for fault in faults:
        if group and not fault.beside:
            yield group
            group = []
        group.append(fault)
    if group:
        yield group
