"""The broker's side: the log, the group and the transactions, as far as exactly-once depends on them.

- A transaction is open from its first request until it is committed, aborted by the next producer of its id, or timed
  out. A commit is prepared first and seen a moment later; who takes over the id waits for it.
- A member joins, and the round ends when all members have joined or the wait is over; those that have not are out.
  Whoever is out, or meant to join again, hears of it with its next heartbeat.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from darkroom.consumer.core.events import Refusal
from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.worker.ports import OutgoingRecord, Record
from tests.simulation.clock import VirtualLoop
from tests.simulation.requests import Sent

TOPIC = "generation.requests"
HEARTBEAT_S = 0.8
SESSION_S = 4.0
JOIN_WAIT_S = 3.0
TRANSACTION_S = 5.0
ASK_AGAIN_S = 0.05


class MetadataTooLong(Exception):  # noqa: N818
    """The commit's metadata is longer than the broker allows."""


class Refused(Exception):  # noqa: N818
    """The broker takes no publication of this kind, however often it is tried."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.value)
        self.refusal = refusal


class Fenced(Exception):  # noqa: N818
    """The producer's epoch is not the newest of its transactional id."""


@dataclass(slots=True, eq=False)
class Transaction:
    """What is committed together."""

    writer: str
    records: tuple[OutgoingRecord, ...]
    offset: int
    metadata: str
    prepared: bool = False


@dataclass(slots=True)
class Partition:
    """One partition of the requests, what the group committed for it, and its transactional id."""

    key: PartitionKey
    log: list[Sent | None] = field(default_factory=list)
    """By offset; None where a control record stands, or what compaction took."""
    committed: tuple[int, str] | None = None
    epoch: int = 0
    transaction: Transaction | None = None


@dataclass(slots=True, eq=False)
class Member:
    """One member of the group."""

    client_id: str
    assigned: frozenset[PartitionKey] = frozenset()
    joining: asyncio.Future[Assignment] | None = None
    interrupted: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a member is given when a rebalance ends."""

    partitions: frozenset[PartitionKey]
    interrupted: asyncio.Future[None]
    """Done when the member is to join again, or is out, and its heartbeat has told it."""


class Cluster:
    """All of it. Its methods are what requests do when they arrive."""

    def __init__(self, loop: VirtualLoop, rng: random.Random, partitions: int) -> None:
        self._loop = loop
        self._rng = rng
        self.partitions: dict[PartitionKey, Partition] = {}
        self.members: dict[str, Member] = {}
        self.stable = True
        self.late_polls, self.late_s = 0.15, 0.2
        """Share of the polls that take so long that a rebalance may come between."""
        self.sticky = 0.7
        """Share of the rebalances after which who held a partition keeps it."""
        self.metadata_chars_max = 4096
        """Kafka's `offset.metadata.max.bytes`."""
        self.record_bytes_max = 1 << 20
        """A topic's `max.message.bytes`."""
        self.moving_until = 0.0
        """Until when the group's coordinator is on its way to another broker."""
        self.guest_until = 0.0
        """Until when a member of the new protocol is in the group."""
        self.refused_until = 0.0
        """Until when a right is missing, or a topic."""
        self.refusal = Refusal.RIGHTS
        self.on_commit: list[Callable[[Partition, Transaction], None]] = []
        self.hears: Callable[[str], bool] = lambda _client_id: True
        """Whether a member's heartbeat runs now: a frozen one learns nothing."""
        self.lives: Callable[[str], bool] = lambda _client_id: True
        """Whether a member's process is there at all: a request of a dead one may still arrive."""
        self._round = 0
        for _ in range(partitions):
            self.add_partition()

    def add_partition(self) -> None:
        """One more partition; the group takes it in with a rebalance."""
        key = PartitionKey(TOPIC, len(self.partitions))
        self.partitions[key] = Partition(key)
        if self.members:
            self.rebalance()

    # --- The log -------------------------------------------------------------------------------------------

    def append(self, key: PartitionKey, sent: Sent | None) -> None:
        """A producer's record, or a control record."""
        self.partitions[key].log.append(sent)

    def fetch(self, key: PartitionKey, position: int, records_max: int) -> tuple[list[Record], int]:
        """The records from a position on, and the position behind them."""
        records: list[Record] = []
        log = self.partitions[key].log
        while position < len(log) and len(records) < records_max:
            sent = log[position]
            if sent is not None:
                # A time stamp far in the future: the core's order is then by delivery, whatever the wall clock says.
                records.append(Record(position, sent.key, sent.value, sent.headers, 4_000_000_000_000))
            position += 1
        return records, position

    # --- Transactions --------------------------------------------------------------------------------------

    def init_writer(self, key: PartitionKey) -> asyncio.Future[int]:
        """InitProducerId: abort what is open, wait for what is prepared, and fence everybody before."""
        answer = self._loop.create_future()
        self._init_writer(key, answer)
        return answer

    def _init_writer(self, key: PartitionKey, answer: asyncio.Future[int]) -> None:
        partition = self.partitions[key]
        if partition.transaction is not None and partition.transaction.prepared:
            self._loop.outside(ASK_AGAIN_S, self._init_writer, key, answer)
            return
        partition.transaction = None
        partition.epoch += 1
        answer.set_result(partition.epoch)

    def begin(self, key: PartitionKey, epoch: int, transaction: Transaction) -> None:
        """The records and the offset are with the broker; nothing of it is seen yet."""
        partition = self._writing(key, epoch)
        if len(transaction.metadata) > self.metadata_chars_max:
            raise MetadataTooLong(f"{len(transaction.metadata)} characters")
        if any(len(record.value or b"") > self.record_bytes_max for record in transaction.records):
            raise Refused(Refusal.SIZE)
        if self._loop.time() < self.refused_until:
            raise Refused(self.refusal)
        partition.transaction = transaction
        self._loop.outside(TRANSACTION_S, self._time_out, partition, transaction)

    def commit(self, key: PartitionKey, epoch: int) -> asyncio.Future[None]:
        """EndTxn: from here on it will be seen; the answer comes when it is."""
        partition = self._writing(key, epoch)
        answer: asyncio.Future[None] = self._loop.create_future()
        transaction = partition.transaction
        if transaction is None:
            raise Fenced("there is no transaction to commit")
        transaction.prepared = True
        self._loop.outside(self._rng.random() * 0.03, self._show, partition, transaction, answer)
        return answer

    def _show(self, partition: Partition, transaction: Transaction, answer: asyncio.Future[None]) -> None:
        partition.transaction = None
        partition.committed = (transaction.offset, transaction.metadata)
        for listener in self.on_commit:
            listener(partition, transaction)
        answer.set_result(None)

    def _time_out(self, partition: Partition, transaction: Transaction) -> None:
        if partition.transaction is transaction and not transaction.prepared:
            partition.transaction = None
            partition.epoch += 1

    def _writing(self, key: PartitionKey, epoch: int) -> Partition:
        partition = self.partitions[key]
        if epoch != partition.epoch or (partition.transaction is not None and partition.transaction.prepared):
            raise Fenced(f"epoch {epoch} is not {partition.epoch}")
        return partition

    def commit_plainly(self, key: PartitionKey, writer: str, offset: int, metadata: str) -> None:
        """OffsetCommit outside of any transaction: what no worker may ever do."""
        partition = self.partitions[key]
        partition.committed = (offset, metadata)
        for listener in self.on_commit:
            listener(partition, Transaction(writer, (), offset, metadata))

    def coordinator_is_moving(self) -> bool:
        """Whether the group's coordinator cannot tell anything now."""
        return self._loop.time() < self.moving_until

    def has_guest(self) -> bool:
        """Whether a member of the new protocol is in the group, which makes it look empty to the old question."""
        return self._loop.time() < self.guest_until

    # --- The group -----------------------------------------------------------------------------------------

    def owner(self, key: PartitionKey) -> str | None:
        """The client id that holds a partition; None while the group is not stable."""
        if self.stable:
            for member in self.members.values():
                if key in member.assigned:
                    return member.client_id
        return None

    def join(self, client_id: str) -> asyncio.Future[Assignment]:
        """A member joins, for the first time or again. The answer comes when the round is over."""
        self.silent(client_id, lambda: not self.lives(client_id))  # a late request of one that ended meanwhile
        member = self.members.setdefault(client_id, Member(client_id))
        member.joining = self._loop.create_future()
        if self.stable:
            self.rebalance()
        if all(one.joining is not None for one in self.members.values()):
            self._loop.outside(self._rng.random() * 0.05, self._finish, self._round)
        return member.joining

    def leave(self, client_id: str) -> None:
        """A member is out: by its own word, or because nothing was heard of it."""
        member = self.members.pop(client_id, None)
        if member is not None:
            self._interrupt(member)
            self.rebalance()

    def silent(self, client_id: str, still: Callable[[], bool]) -> None:
        """No heartbeat comes from a member any more; out it goes when the session is over, if that is still so."""
        self._loop.outside(SESSION_S, lambda: self.leave(client_id) if still() else None)

    def rebalance(self) -> None:
        """Everybody is to join again."""
        if not self.stable:
            return
        self.stable = False
        self._round += 1
        for member in self.members.values():
            self._interrupt(member)
        self._loop.outside(JOIN_WAIT_S, self._finish, self._round)

    def _interrupt(self, member: Member) -> None:
        if member.interrupted is not None:
            self._loop.outside(self._rng.random() * HEARTBEAT_S, self._tell, member.client_id, member.interrupted)
            member.interrupted = None

    def _tell(self, client_id: str, interrupted: asyncio.Future[None]) -> None:
        if interrupted.done():
            return
        if self.hears(client_id):
            interrupted.set_result(None)
        else:
            self._loop.outside(self._rng.random() * HEARTBEAT_S, self._tell, client_id, interrupted)

    def _finish(self, of_round: int) -> None:
        if self.stable or of_round != self._round:
            return
        late = [one for one in self.members.values() if one.joining is None]
        for member in late:
            del self.members[member.client_id]
        self.stable = True
        joined = list(self.members.values())
        shares = self._assign(joined)
        for member in joined:
            assert member.joining is not None
            member.assigned = shares[member.client_id]
            member.interrupted = self._loop.create_future()
            member.joining.set_result(Assignment(member.assigned, member.interrupted))
            member.joining = None

    def _assign(self, members: Sequence[Member]) -> dict[str, frozenset[PartitionKey]]:
        """Sticky most of the time: who held a partition keeps it, within its even share."""
        shares: dict[str, set[PartitionKey]] = {member.client_id: set() for member in members}
        if not members:
            return {}
        keys = list(self.partitions)
        share_max = -(-len(keys) // len(members))
        left = []
        sticky = self._rng.random() < self.sticky
        for key in keys:
            held = next((one for one in members if key in one.assigned), None)
            if sticky and held is not None and len(shares[held.client_id]) < share_max:
                shares[held.client_id].add(key)
            else:
                left.append(key)
        self._rng.shuffle(left)
        for key in left:
            fewest = min(len(share) for share in shares.values())
            name = self._rng.choice([name for name, share in shares.items() if len(share) == fewest])
            shares[name].add(key)
        return {name: frozenset(share) for name, share in shares.items()}
