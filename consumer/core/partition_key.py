"""The core's names of partitions and of the jobs that came from them."""

from __future__ import annotations

from typing import NamedTuple


class PartitionKey(NamedTuple):
    """One partition of the request topic."""

    topic: str
    partition: int


class JobKey(NamedTuple):
    """One record, which is one job: identified by where it stands, never by what it says."""

    topic: str
    partition: int
    offset: int

    @property
    def partition_key(self) -> PartitionKey:
        """The partition that the record stands in."""
        return PartitionKey(self.topic, self.partition)


class RowKey(NamedTuple):
    """One image of one job."""

    job: JobKey
    image: int
