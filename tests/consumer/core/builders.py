"""Short ways to say events about one partition, for tests of the core."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from darkroom.consumer.core import effects as do
from darkroom.consumer.core import events as on
from darkroom.consumer.core.core import Core
from darkroom.consumer.core.jobs import JobFacts, Verdict
from darkroom.consumer.core.journal import UNNAMED_BOOT, Boot
from darkroom.consumer.core.limits import Limits
from darkroom.consumer.core.offset_map import Commit
from darkroom.consumer.core.partition_key import JobKey, PartitionKey, RowKey

P0 = PartitionKey("requests", 0)
P1 = PartitionKey("requests", 1)
EffectT = TypeVar("EffectT")


def key(offset: int, partition: PartitionKey = P0) -> JobKey:
    return JobKey(*partition, offset)


def facts(
    offset: int,
    *,
    partition: PartitionKey = P0,
    request_id: str | None = "",
    rows: int = 1,
    priority: int = 4,
    waiting_since: float = 0.0,
    deadline: float | None = None,
    refusal: Verdict | None = None,
    fetches_pictures: bool = False,
    size_bytes: int = 100,
    device_us: int = 0,
) -> JobFacts:
    """A record; its request id is its offset unless another is given."""
    identity = None if request_id is None else ("t", request_id or f"{partition.partition}-{offset}")
    place = key(offset, partition)
    return JobFacts(
        place,
        identity,
        rows,
        size_bytes,
        priority,
        waiting_since,
        deadline,
        fetches_pictures=fetches_pictures,
        device_us=device_us,
        refusal=refusal,
    )


def opened(limits: Limits, *partitions: PartitionKey, now: float = 0.0, boot: Boot = UNNAMED_BOOT) -> Core:
    """A running core whose partitions are assigned and open at offset 0, and whose waits are the longest."""
    core = Core(limits, boot=boot, jitter=1.0)
    core.handle(on.Started(), now)
    core.handle(on.PartitionsAssigned(frozenset(partitions or (P0,))), now)
    for partition in partitions or (P0,):
        core.handle(on.PartitionOpened(partition, core.partitions[partition].epoch, Commit(0)), now)
    return core


def arrive(core: Core, record: JobFacts, now: float = 0.0) -> tuple[do.Effect, ...]:
    epoch = core.partitions[record.key.partition_key].epoch
    return core.handle(on.RecordArrived(record, epoch), now)


def to_ready(
    core: Core,
    records: Iterable[JobFacts],
    now: float = 0.0,
    batch_key: str = "64",
    cap: int | None = None,
    cap_best: int | None = None,
) -> list[do.Effect]:
    """Take records in and bring them through look-up and preparation."""
    effects: list[do.Effect] = []
    for record in records:
        effects += arrive(core, record, now)
        effects += journal(core, core.handle(on.OutcomeAbsent(record.key), now), now)
        if cap is not None:
            effects += core.handle(on.CapKnown(batch_key, cap, cap if cap_best is None else cap_best), now)
        effects += core.handle(on.Prepared(record.key, batch_key), now)
    return effects


def journal(core: Core, effects: Iterable[do.Effect], now: float = 0.0) -> list[do.Effect]:
    """Confirm the publications among the effects that carry nothing but the journal, and those that follow."""
    following = list(effects)
    for publish in of(do.Publish, following):
        if not publish.jobs:
            following += core.handle(on.Published(publish.partition, publish.epoch), now)
    return following


def to_decided(core: Core, record: JobFacts, now: float = 0.0) -> list[do.Effect]:
    """Take a record in and bring it through to its decided outcome."""
    to_ready(core, [record], now)
    core.handle(on.Tick(), now + core.limits.linger_s)
    core.handle(on.StepBoundary(tuple(RowKey(record.key, image) for image in range(record.rows))), now)
    core.handle(on.Rendered(record.key, 1000), now)
    return list(core.handle(on.Settled(record.key), now))


def of(kind: type[EffectT], effects: Iterable[object]) -> list[EffectT]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]
