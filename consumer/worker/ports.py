"""The edges that the driver performs on, as protocols: production, the simulation and the tests each have their own.

A port's methods may raise only what is declared here; foreign exceptions are translated where they arise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from darkroom.consumer.core.events import Refusal
from darkroom.consumer.core.journal import Boot, Fate
from darkroom.consumer.core.partition_key import PartitionKey


class BrokerUnavailable(Exception):  # noqa: N818 - named as the store's
    """Kafka could not be reached, or refused for a reason that may pass. Nobody's request is at fault."""


class BrokerGone(Exception):  # noqa: N818 - named as the engine's end
    """The member of the group cannot work any more, whatever Kafka does: only a process that is started anew can."""


class WriterFenced(Exception):  # noqa: N818 - Kafka's word
    """Another producer took over this partition's transactional id: the partition may be somebody else's now."""


class PublicationUnknown(Exception):  # noqa: N818
    """A transaction failed or timed out. It may have been committed all the same: only the broker knows."""


class PublicationRefused(PublicationUnknown):
    """The broker refused a transaction for a reason that stays: one sentence with the remedy."""

    def __init__(self, refusal: Refusal, sentence: str) -> None:
        super().__init__(sentence)
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Record:
    """One delivered record, as it came."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    """A header may have no value; bytes of a name that are not UTF-8 are lone surrogates (`surrogateescape`)."""
    timestamp_ms: int
    """Milliseconds since 1970 as the producer or the broker wrote them: any number, -1 for none."""
    flaw: str | None = None
    """Why this is no record but a batch of them that cannot be read: one sentence. The value is the batch's bytes, the
    offset that of its first record."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """Records that one poll returned for one partition."""

    partition: PartitionKey
    records: tuple[Record, ...]
    position: int
    """The consumer's position behind these records, control records and gaps included."""
    end: int | None
    """The partition's last stable offset as last seen, for the lag."""

    @property
    def ends_with_a_record(self) -> bool:
        """Return True if the position follows from the last record, with no control record or gap behind it."""
        return bool(self.records) and self.records[-1].offset + 1 == self.position


@dataclass(frozen=True, slots=True)
class Opened:
    """Committed offset and metadata of a partition, read after everyone else was fenced."""

    base: int
    metadata: str
    fresh: bool
    """There was no usable committed offset; `base` is the partition's beginning."""


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """A record to be published in a transaction."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]


Noted = Callable[[frozenset[PartitionKey]], None]
"""Takes note of a rebalance's beginning or end, and returns at once."""


class Boots(Protocol):
    """Fates of worker processes. A *boot* is one run of one process, named by 16 hexadecimal digits."""

    @property
    def boot(self) -> Boot:
        """This process's own."""

    async def announce(self) -> None:
        """Say that this boot runs, and that its predecessor in the same place, if it never ended, has crashed.

        Raises `darkroom.producer.store.objects.StoreUnavailable`.
        """

    async def ending(self) -> None:
        """Say that this boot was told to end: whatever follows is no crash. Never raises."""

    async def fates(self, boots: frozenset[Boot], members: frozenset[str]) -> Mapping[Boot, Fate]:
        """Return the fates of these boots; an unknown one is GONE. `members`: client ids of the group. Never raises."""


class Broker(Protocol):
    """A member of the consumer group, and one transactional writer for each partition that it holds."""

    async def join(
        self,
        on_revoked: Callable[[frozenset[PartitionKey]], None],
        on_assigned: Callable[[frozenset[PartitionKey]], None],
    ) -> None:
        """Join the group. The callbacks only take note. Raises `BrokerUnavailable`."""

    async def poll(self, timeout_s: float) -> Sequence[Delivery]:
        """Return the records of the partitions that are not paused. Must be called at all times.

        A partition without records may be left out for a second at the most.

        Raises `BrokerUnavailable`, and `BrokerGone` where no further call will do better.
        """

    def pause(self, partition: PartitionKey) -> None:
        """Deliver no more of a partition. Nothing happens where it is not assigned."""

    def resume(self, partition: PartitionKey, seek_to: int | None = None) -> None:
        """Deliver, from an offset where one is given. Nothing happens where the partition is not assigned."""

    async def open(self, partition: PartitionKey, *, prove_ownership: bool) -> Opened:
        """Settle or give up the partition's old transaction, fence every other writer, then read the offset.

        With `prove_ownership`, first wait until the group says that the partition is this member's. Raises
        `BrokerUnavailable`. May be cancelled at any point.
        """

    async def members(self) -> frozenset[str]:
        """The client ids of the group's members. Raises `BrokerUnavailable`."""

    async def publish(
        self, partition: PartitionKey, records: Sequence[OutgoingRecord], offset: int, metadata: str
    ) -> None:
        """One transaction: the records, and the group's offset with its metadata.

        Raises `WriterFenced`, `PublicationRefused` or `PublicationUnknown`; after any of them the partition must be
        opened again.
        """

    async def close(self, partition: PartitionKey) -> None:
        """Give up a partition's writer. Bounded in time; never raises."""

    async def leave(self) -> None:
        """Leave the group and close everything. Bounded in time; never raises."""
