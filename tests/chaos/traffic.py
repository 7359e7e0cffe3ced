"""Requests without pause, of every sort that production brings, and what each must end as.

What is sent follows from the seed; when it arrives does not. A record whose acknowledgement is lost is sent again as
it is, so that Kafka may hold it twice: one more double. What is expected is said by request id, since every record of
one id must agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from darkroom.producer.kafka.closing import close
from darkroom.producer.kafka.connection import kafka_arguments
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, Status
from darkroom.schemas.events.progress import Cancellation
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import encode_cancellation
from tests.chaos.watch import Book, Spot

Headers = Sequence[tuple[str, bytes]]

RETRY_S = 0.3
SENDS_MAX = 100
"""Records on their way at once; more wait their turn."""
ECONOMY_SHARE = 0.4
"""Of the requests that ask for fidelity economy."""
REMEMBERED_MAX = 200
"""Requests of which a double or a conflict may still come."""
IN_A_TRANSACTION = 3


class Sort(StrEnum):
    """What a record is."""

    PLAIN = "plain"
    PAIR = "two pictures"
    MEMORY = "out of memory in company"
    EXPIRED = "deadline passed before it was sent"
    DOUBLE = "the same again"
    CONFLICT = "another request under a used id"
    INVALID = "a request that cannot be"
    UNREADABLE = "no request at all"
    TRANSACTION = "a transaction of several"
    ABORTED = "an aborted transaction"
    CANCELLED = "cancelled by its requester, before or after it was sent"
    POISON = "kills its worker"


_WEIGHTS: dict[Sort, int] = {
    Sort.PLAIN: 70,
    Sort.PAIR: 5,
    Sort.MEMORY: 1,
    Sort.EXPIRED: 2,
    Sort.DOUBLE: 8,
    Sort.CONFLICT: 3,
    Sort.INVALID: 2,
    Sort.UNREADABLE: 2,
    Sort.TRANSACTION: 4,
    Sort.ABORTED: 2,
    Sort.CANCELLED: 5,
}
CANCELLED_AFTER_S = (-0.5, 0.0, 0.0, 0.2, 0.6, 2.0)
"""When the cancellation is sent, counted from Kafka's word on its request; below 0 it is sent so long before it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One record to send: its value and its key."""

    value: bytes | None
    key: bytes
    cancelled_after_s: float | None = None
    """When its cancellation is sent, if one is."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What the records of one request id may end as."""

    status: Status
    code: ErrorCode | None = None

    def fits(self, completion: Completion) -> bool:
        """Whether a completion is that."""
        return (completion.status, completion.error and completion.error.code) == (self.status, self.code)


SUCCEEDED = Ending(Status.SUCCEEDED)
CANCELLED = Ending(Status.CANCELLED, ErrorCode.CANCELLED)
CONFLICTED = Ending(Status.FAILED, ErrorCode.REQUEST_ID_CONFLICT)


@dataclass(slots=True)
class Sent:
    """What was sent, as far as Kafka confirmed it."""

    by_sort: Counter[Sort] = field(default_factory=Counter)
    expected: dict[str, Ending] = field(default_factory=dict)
    """By request id. The outcomes of a conflict's loser are `CONFLICTED`."""
    contested: set[str] = field(default_factory=set)
    withdrawn: set[str] = field(default_factory=set)
    """Requests that were cancelled: each ends as cancelled, or as what was decided before the cancellation was read."""
    asked: list[bytes] = field(default_factory=list)
    """The requests that may end with pictures."""
    unreadable: set[Spot] = field(default_factory=set)
    aborted: set[Spot] = field(default_factory=set)
    """Records of aborted transactions: nobody may ever hear of them."""


class Mix:
    """Makes the records. Pure but for the time in deadlines."""

    def __init__(self, seed: int, *, steps: tuple[int, ...], markers: bool) -> None:
        """`markers`: the device plays trouble on request."""
        self._chance = random.Random(seed)
        self._steps = steps
        self._weights = {sort: weight for sort, weight in _WEIGHTS.items() if markers or sort is not Sort.MEMORY}
        self._numbers = itertools.count()
        self._seed = seed
        self._sent: list[Item] = []
        self.sent = Sent()

    def next(self) -> tuple[Sort, list[Item]]:
        """The next records, sent one by one or, of a transaction, together."""
        sort = self._chance.choices(list(self._weights), list(self._weights.values()))[0]
        if sort in (Sort.DOUBLE, Sort.CONFLICT) and not self._sent:
            sort = Sort.PLAIN
        self.sent.by_sort[sort] += 1
        if sort in (Sort.TRANSACTION, Sort.ABORTED):
            return sort, [self._request(Sort.PLAIN, expect=sort is Sort.TRANSACTION) for _ in range(IN_A_TRANSACTION)]
        return sort, [self._single(sort)]

    def poison(self) -> Item:
        """A request that ends the process of whoever renders it."""
        self.sent.by_sort[Sort.POISON] += 1
        return self._request(Sort.POISON)

    def _single(self, sort: Sort) -> Item:
        match sort:
            case Sort.DOUBLE:
                return self._chance.choice(self._sent)
            case Sort.CONFLICT:
                return self._conflict(self._chance.choice(self._sent))
            case Sort.INVALID:
                return self._invalid()
            case Sort.UNREADABLE:
                values = (None, b"\xff\xfe rubbish", b"[1, 2]", b'{"prompt": "nobody"}')
                return Item(self._chance.choice(values), b"unreadable")
            case _:
                return self._request(sort)

    def _request(self, sort: Sort, *, expect: bool = True) -> Item:
        request_id = f"s{self._seed}-{next(self._numbers)}"
        fields: dict[str, object] = {
            "request_id": request_id,
            "prompt": f"figure {request_id}",
            "steps": self._chance.choice(self._steps),
            "priority": self._chance.choice((0, 4, 4, 4, 9)),
        }
        if self._chance.random() < ECONOMY_SHARE:
            fields["fidelity"] = "economy"
        ending = SUCCEEDED
        match sort:
            case Sort.PAIR:
                fields["count"] = 2
            case Sort.MEMORY:
                fields["prompt"] = f"figure {request_id} [[simulate:oom 4]]"
            case Sort.EXPIRED:
                fields["deadline"] = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
                ending = Ending(Status.EXPIRED, ErrorCode.DEADLINE_PASSED)
            case Sort.CANCELLED:
                self.sent.withdrawn.add(request_id)
            case Sort.POISON:
                fields["prompt"] = f"figure {request_id} [[simulate:crash]]"
                ending = Ending(Status.FAILED, ErrorCode.WORKER_CRASH)
        item = Item(json.dumps(fields).encode(), request_id.encode())
        if expect:
            self.sent.expected[request_id] = ending
        if expect and ending is SUCCEEDED:
            self._sent = [*self._sent, item][-REMEMBERED_MAX:]
            self.sent.asked.append(item.value or b"")
        if sort is Sort.CANCELLED:
            return replace(item, cancelled_after_s=self._chance.choice(CANCELLED_AFTER_S))
        return item

    def _conflict(self, item: Item) -> Item:
        fields = json.loads(item.value or b"")
        self.sent.contested.add(fields["request_id"])
        fields["prompt"] += " in another coat"
        value = json.dumps(fields).encode()
        self.sent.asked.append(value)
        return Item(value, item.key)

    def _invalid(self) -> Item:
        request_id = f"s{self._seed}-{next(self._numbers)}"
        self.sent.expected[request_id] = Ending(Status.FAILED, ErrorCode.INVALID_REQUEST)
        value = {"request_id": request_id, "prompt": "a figure", "steps": self._chance.choice((0, 9999, "twenty"))}
        return Item(json.dumps(value).encode(), request_id.encode())


class Traffic:
    """Sends what a mix makes, at a rate, until stopped; and again whatever Kafka did not confirm."""

    def __init__(self, settings: Settings, mix: Mix, book: Book) -> None:
        self._settings = settings
        self._topic = settings.topics.requests
        self._mix = mix
        self._book = book
        self._producer: AIOKafkaProducer = None
        self._making = asyncio.Lock()
        self._in_transaction = asyncio.Lock()
        self._room = asyncio.Semaphore(SENDS_MAX)
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, rate_per_s: float, seed: int) -> None:
        """Send at random times, so many a second on average, until cancelled."""
        chance = random.Random(seed)
        while True:
            await asyncio.sleep(chance.expovariate(rate_per_s))
            sort, items = self._mix.next()
            if sort in (Sort.TRANSACTION, Sort.ABORTED):
                await self._begin(self._send_together(items, commit=sort is Sort.TRANSACTION))
            elif (after_s := items[0].cancelled_after_s) is not None:
                await self._begin(self._send_and_cancel(items[0], after_s))
            else:
                await self._begin(self._send(sort, items[0]))

    async def send_poison(self) -> None:
        """Send a request that kills its worker."""
        await self._begin(self._send(Sort.POISON, self._mix.poison()))

    async def finish(self, limit_s: float) -> None:
        """Wait until Kafka has confirmed all that was begun. Raises `TimeoutError`."""
        async with asyncio.timeout(limit_s):
            while self._sending:
                await asyncio.wait(self._sending)
        await _stop(self._producer)

    async def stop(self) -> None:
        """Give up what is on its way."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await _stop(self._producer)

    async def follow_growth(self) -> None:
        """Send to partitions that were added, too."""
        async with self._making:
            producer, self._producer = self._producer, None
        await _stop(producer)

    async def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        await self._room.acquire()
        task = asyncio.create_task(work)
        self._sending.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._room.release()
        self._sending.discard(task)
        if not task.cancelled():
            task.result()

    async def _send(self, sort: Sort, item: Item) -> None:
        self._accept([await self._put(self._topic, item.value, item.key)], sort)

    async def _send_and_cancel(self, item: Item, after_s: float) -> None:
        request_id = item.key.decode()
        event = encode_cancellation(Cancellation(request_id=request_id), event_id=request_id, time=datetime.now(UTC))
        if after_s < 0:
            await self._put(self._settings.topics.cancellations, event.value, event.key, event.headers)
            await asyncio.sleep(-after_s)
        await self._send(Sort.CANCELLED, item)
        if after_s >= 0:
            await asyncio.sleep(after_s)
            await self._put(self._settings.topics.cancellations, event.value, event.key, event.headers)

    async def _put(self, topic: str, value: bytes | None, key: bytes, headers: Headers = ()) -> Spot:
        """Until Kafka confirms it. Returns where it is."""
        while True:
            with contextlib.suppress(KafkaError, OSError, TimeoutError):
                producer = await self._ready_producer()
                try:
                    accepted = await producer.send_and_wait(topic, value, key=key, headers=list(headers))
                except (KafkaError, OSError):
                    await self._renew(producer)
                    raise
                return accepted.partition, accepted.offset
            await asyncio.sleep(RETRY_S)

    async def _send_together(self, items: Iterable[Item], *, commit: bool) -> None:
        """In one transaction. One whose fate is not known is sent again: then its requests may be there twice."""
        async with self._in_transaction:
            while True:
                try:
                    async with asyncio.timeout(self._settings.kafka.request_timeout_ms / 1000):
                        await self._transaction(items, commit=commit)
                        return
                except (KafkaError, OSError, TimeoutError):
                    await asyncio.sleep(RETRY_S)

    async def _transaction(self, items: Iterable[Item], *, commit: bool) -> None:
        # One id for all: starting settles what the one before left open, which would hold back every reader.
        producer = AIOKafkaProducer(
            **kafka_arguments(self._settings.kafka), transactional_id=f"{self._topic}-sender", acks="all"
        )
        try:
            await producer.start()
            await producer.begin_transaction()
            sending = [await producer.send(self._topic, item.value, key=item.key) for item in items]
            spots = [(one.partition, one.offset) for one in await asyncio.gather(*sending)]
            if not commit:
                self._mix.sent.aborted.update(spots)
                await producer.abort_transaction()
                return
            await producer.commit_transaction()
            self._accept(spots, Sort.TRANSACTION)
        finally:
            await _stop(producer)

    def _accept(self, spots: Iterable[Spot], sort: Sort) -> None:
        now = time.monotonic()
        for spot in spots:
            self._book.accepted(spot, now)
            if sort is Sort.UNREADABLE:
                self._mix.sent.unreadable.add(spot)

    async def _ready_producer(self) -> AIOKafkaProducer:
        async with self._making:
            if self._producer is None:
                producer = AIOKafkaProducer(**kafka_arguments(self._settings.kafka), acks="all")
                try:
                    async with asyncio.timeout(self._settings.kafka.request_timeout_ms / 1000):
                        await producer.start()
                except BaseException:
                    await _stop(producer)
                    raise
                self._producer = producer
            return self._producer

    async def _renew(self, failed: AIOKafkaProducer) -> None:
        async with self._making:
            if self._producer is failed:
                self._producer = None
        await _stop(failed)


async def _stop(producer: AIOKafkaProducer | None) -> None:
    if producer is not None:
        await close(producer)
