"""One partition's account: what was received, what is finished, and what may therefore be committed."""

from __future__ import annotations

from dataclasses import dataclass

from darkroom.consumer.core.journal import NO_JOURNAL, Journal
from darkroom.consumer.core.offset_map import METADATA_CHARS_MAX, Commit, encode_map
from darkroom.consumer.core.partition_key import PartitionKey


@dataclass(frozen=True, slots=True)
class CommitPlan:
    """Contents of one transaction: the offset, its metadata, and what becomes finished and journaled by it."""

    offset: int
    metadata: str
    finished: frozenset[int]
    journal: Journal = NO_JOURNAL


class Ledger:
    """The offsets of one partition under one epoch.

    Invariants, each with a property test of its name:

    - `committed_never_passes_unfinished`: every offset below the committable one is finished or was never a record.
    - `map_tells_exactly_the_finished`: the metadata names the finished offsets above the commit, no more, no fewer.
    - `window_is_bounded`: no offset at or above `base + window_offsets` may start, so the map always fits.
    - `base_never_falls`: a plan's offset is at least the base it was made from.
    - `idle_commits_position`: with nothing unfinished the committable offset is the consumer's position, so
      that control records and compacted gaps do not hold the lag above zero.
    """

    def __init__(self, partition: PartitionKey, commit: Commit, window_offsets: int) -> None:
        """Open at what stands committed."""
        self.partition = partition
        self.base = commit.base
        self.position = commit.base
        """The next offset to receive."""
        self._window_offsets = window_offsets
        self._finished = set(commit.finished)
        self._unfinished: set[int] = set()

    @property
    def unfinished(self) -> int:
        """Return the number of received offsets without a committed outcome."""
        return len(self._unfinished)

    @property
    def is_ahead_idly(self) -> bool:
        """Return whether the position is ahead of the commit with nothing unfinished."""
        return not self._unfinished and self.position > self.base

    @property
    def window(self) -> int:
        """Return the distance of receiving ahead of committing, in offsets."""
        return max(0, self.position - self.base)

    def receive(self, offset: int) -> bool:
        """Take a delivered record. True where it is new work; False where it is finished or already known."""
        if offset < self.position:
            return False
        self.position = offset + 1
        if self.is_finished(offset):
            return False
        self._unfinished.add(offset)
        return True

    def advance(self, position: int) -> None:
        """The consumer passed over offsets that hold no record (control records, compaction)."""
        self.position = max(self.position, position)

    def may_start(self, offset: int) -> bool:
        """Return whether the map could hold this offset if it finished now."""
        return offset - self.base <= self._window_offsets

    def may_come(self, offset: int) -> bool:
        """Return whether the offset is unfinished here, or may still be delivered."""
        return offset in self._unfinished or (offset >= self.position and not self.is_finished(offset))

    def is_finished(self, offset: int) -> bool:
        """Return whether the offset's outcome is committed."""
        return offset < self.base or offset in self._finished

    def plan(
        self, finishing: frozenset[int], journal: Journal = NO_JOURNAL, metadata_chars_max: int = METADATA_CHARS_MAX
    ) -> CommitPlan:
        """Return what to commit once `finishing` (unfinished offsets) have their outcomes in the same transaction.

        `journal` is of unfinished offsets that may start, `finishing` left out; it fits `metadata_chars_max`.
        """
        unfinished = self._unfinished - finishing
        offset = min(unfinished) if unfinished else max(self.position, self.base)
        while offset in self._finished:  # known from the map, and not delivered again yet
            offset += 1
        above = [done for done in self._finished | finishing if done > offset]
        metadata = encode_map(self.partition, offset, above, journal, chars_max=metadata_chars_max)
        return CommitPlan(offset, metadata, finishing, journal)

    def apply(self, plan: CommitPlan) -> None:
        """A plan's transaction was committed."""
        self._unfinished -= plan.finished
        self._finished |= plan.finished
        self.base = plan.offset
        self._finished = {offset for offset in self._finished if offset > self.base}

    def adopt(self, previous: Ledger) -> bool:
        """Take over what an earlier ledger of the partition received, after a reopening.

        Returns False, and changes nothing, where the two do not fit together (somebody went on past what was
        received here, or the topic was made anew): then everything is to be received again.
        """
        if not previous.base <= self.base <= previous.position:
            return False
        self.position = previous.position
        self._unfinished = {offset for offset in previous._unfinished if not self.is_finished(offset)}
        return True
