"""The one consumer that reads any topic: aiokafka's, made to read whatever bytes Kafka has taken.

Every reader of every topic uses `RecordConsumer`. It never raises for what stands in a record: strange header names are
given with their bytes (`surrogateescape`), and what cannot be parsed comes as one record whose value is an
`UnreadableBatch`, so that positions advance and whatever stands before, behind and in other partitions is delivered.

How: a method of aiokafka's fetcher makes the object that takes a fetch apart, by the global name `MemoryRecords`. Each
consumer of this class gets a copy of that method in which the name means `Batches`. Nothing global is patched, since
whoever embeds the client may have consumers of their own; and a subclass cannot do it, because the fetcher has no seam
between the broker's answer and its parser. `tests/producer/test_consuming.py` fails when aiokafka's inside moves.
"""

from __future__ import annotations

import functools
import types
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer import fetcher as fetching

from darkroom.producer.kafka.broker_client import harden
from darkroom.producer.kafka.record_batches import Batches, Doubted

__all__ = ["RecordConsumer"]


FETCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes that one fetch may bring: several of the largest requests fit."""


class RecordConsumer(AIOKafkaConsumer):  # type: ignore[misc]
    """`AIOKafkaConsumer` for records of strangers."""

    _made_fetcher: Any = None

    def __init__(self, *topics: str, **arguments: Any) -> None:
        super().__init__(*topics, **arguments)
        harden(self._client)

    @property
    def _fetcher(self) -> Any:
        """aiokafka's fetcher; None before the start."""
        return self._made_fetcher

    @_fetcher.setter
    def _fetcher(self, fetcher: Any) -> None:
        # Set in `start`, before the fetcher's task gets to run for the first time.
        if fetcher is not None:
            names = {"MemoryRecords": functools.partial(Batches, Doubted())}
            method = _with_names(fetching.Fetcher._proc_fetch_request, names)
            fetcher._proc_fetch_request = types.MethodType(method, fetcher)
        self._made_fetcher = fetcher


def _with_names(function: types.FunctionType, names: dict[str, Any]) -> types.FunctionType:
    """Return a copy of a function that finds these names before its module's."""
    return types.FunctionType(
        function.__code__, vars(fetching) | names, function.__name__, function.__defaults__, function.__closure__
    )
