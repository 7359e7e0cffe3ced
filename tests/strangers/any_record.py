"""Feeds a worker, and every reader of every topic, records of random bytes among good requests.

    python -m tests.strangers.any_record --records 100000

Exit code 0 where the worker lived, each good request succeeded once, every other record has its dead letter, the group
has committed all, and the audit is clean. The numbers are printed as a JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from darkroom.consumer.audit.audit import AuditReport, audit
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.client.client import Client
from darkroom.producer.gateway.jobs.feed import Feed
from darkroom.producer.gateway.jobs.hub import Hub
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.outcomes.dead_letter_log import LETTERS_MAX, DeadLetterLog
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.completion import Completion
from tests.integration.by_hand import committed, ends
from tests.integration.fleet import Fleet
from tests.integration.in_process import running_worker
from tests.strangers.raw_records import Raw, RawKafka, raw_kafka

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack
    from darkroom.schemas.settings import Settings

PARTITIONS = 3
GOOD_OF = 40
"""One record in so many is a good request."""
IN_A_BATCH = 60
LIMIT_S_A_RECORD = 0.05
"""Far more than it takes: a limit for a worker that stands still."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of it."""

    records: int
    good: int
    audit: AuditReport
    watched: dict[str, int]
    """Completions by request id, as a client saw them."""
    followed: dict[str, int]
    """The same as the gateway saw them."""
    letters: int
    committed: dict[int, int]
    ends: dict[int, int]
    seconds: float


class Garbage:
    """Records of all bytes. The same seed gives the same records, but for the ids of the good ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._run = uuid.uuid4().hex[:8]

    def record(self) -> Raw:
        make = self._random
        headers = [(self._bytes(12), self._maybe(24)) for _ in range(make.choice((0, 0, 1, 2, 5)))]
        known = (b"ce_type", b"ce_specversion", b"ce_id", b"content-type", b"tenant", b"traceparent", b"CE_TIME")
        headers += [(make.choice(known), self._maybe(24)) for _ in range(make.choice((0, 0, 1, 2)))]
        return Raw(self._maybe(24), self._value(), headers, self._time_ms())

    def good(self, number: int) -> Raw:
        value = json.dumps(
            {"request_id": f"good-{self._run}-{number}", "prompt": f"a figure {number}", "steps": 1}
        ).encode()
        headers = [(self._bytes(12), self._maybe(24)), (b"tenant", None)]
        # A name that says something of the event would change it.
        return Raw(self._maybe(24), value, [one for one in headers if not one[0].lower().startswith(b"c")])

    def _value(self) -> bytes | None:
        if self._random.random() < 0.5:
            return self._maybe(200)
        text = bytearray(b'{"request_id": "", "prompt": "a figure", "steps": 2, "pose": null, "labels": {"a": "b"}}')
        for _ in range(self._random.randrange(1, 6)):
            text[self._random.randrange(20, len(text))] = self._random.randrange(256)
        return bytes(text)

    def _time_ms(self) -> int:
        return self._random.choice((0, -1, -(2**40), int(time.time()), int(time.time() * 1000)))

    def _maybe(self, bytes_max: int) -> bytes | None:
        return None if self._random.random() < 0.2 else self._bytes(bytes_max)

    def _bytes(self, bytes_max: int) -> bytes:
        return self._random.randbytes(self._random.randrange(bytes_max + 1))


async def prove(settings: Settings, records: int, *, seed: int = 1) -> Seen:
    """Run it on topics of these settings, which are made here."""
    await ensure_topics(settings)
    began = time.monotonic()
    watched: Counter[str] = Counter()
    followed: Counter[str] = Counter()
    hub = Hub(clock=time.monotonic, completions_max=100, progress_max=100, progress_bytes_max=1_000_000)
    feed = Feed(settings, hub, lambda completion: followed.update([completion.request_id]))
    engine = LaneEngine(SimulatedDevice(0.0), rows_max=8)
    async with raw_kafka(settings.kafka) as kafka, Client(settings) as client:
        tasks = [
            asyncio.create_task(feed.run()),
            asyncio.create_task(_watch(client, watched)),
        ]
        try:
            async with running_worker(settings, engine):
                garbage = Garbage(seed)
                good = await _fill_requests(kafka, settings, garbage, records)
                await _fill_others(kafka, settings, garbage, records)
                await _until_all_is_committed(settings, records * LIMIT_S_A_RECORD + 60)
                await _until(lambda: len(watched) == good == len(followed), 60)
            at, wanted = await committed(settings), await ends(settings)
            for task in tasks:
                assert not task.done(), f"a reader ended: {task!r}"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    async with MinioObjects(settings.s3) as objects:
        report = await audit(settings, objects)
        letters = 0
        if records < LETTERS_MAX:
            async with DeadLetterLog(settings, objects) as log:
                letters = len(await log.letters())
    return Seen(records, good, report, dict(watched), dict(followed), letters, at, wanted, time.monotonic() - began)


def problems(seen: Seen) -> list[str]:
    """What is wrong, in words."""
    wrong = []
    if not seen.audit.is_clean or seen.audit.pending or seen.audit.replayed:
        wrong.append(f"the audit is not clean: {seen.audit}")
    if (seen.audit.records, seen.audit.succeeded) != (seen.records, seen.good):
        wrong.append(f"of {seen.records} records, {seen.good} of them good, the audit saw {seen.audit}")
    if seen.audit.dead_lettered != seen.records - seen.good:
        wrong.append(f"{seen.audit.dead_lettered} dead letters of {seen.records - seen.good}")
    for who, found in (("the client", seen.watched), ("the gateway", seen.followed)):
        if len(found) != seen.good or set(found.values()) != {1}:
            wrong.append(f"{who} saw {len(found)} of {seen.good} requests, the most often {max(found.values())} times")
    if seen.committed != {number: end for number, end in seen.ends.items() if end}:
        wrong.append(f"committed {seen.committed} of {seen.ends}")
    if seen.letters not in (0, seen.records - seen.good):
        wrong.append(f"{seen.letters} dead letters are listed")
    return wrong


async def _watch(client: Client, watched: Counter[str]) -> None:
    async with contextlib.aclosing(client.completions()) as completions:
        async for completion in completions:
            assert isinstance(completion, Completion)
            watched[completion.request_id] += 1


async def _fill_requests(kafka: RawKafka, settings: Settings, garbage: Garbage, records: int) -> int:
    good = 0
    for at in range(0, records, IN_A_BATCH):
        batch = []
        for number in range(at, min(at + IN_A_BATCH, records)):
            is_good = number % GOOD_OF == 0
            batch.append(garbage.good(number) if is_good else garbage.record())
            good += is_good
        await kafka.put_all(settings.topics.requests, at // IN_A_BATCH % PARTITIONS, batch, in_a_batch=IN_A_BATCH)
    return good


async def _fill_others(kafka: RawKafka, settings: Settings, garbage: Garbage, records: int) -> None:
    topics = settings.topics
    for topic in (topics.completions, topics.progress, topics.cancellations, topics.dead_letters):
        for at in range(0, records, IN_A_BATCH):
            batch = [garbage.record() for _ in range(min(IN_A_BATCH, records - at))]
            await kafka.put_all(topic, 0, batch, in_a_batch=IN_A_BATCH)


async def _until_all_is_committed(settings: Settings, limit_s: float) -> None:
    async with asyncio.timeout(limit_s):
        while True:
            at, wanted = await committed(settings), await ends(settings)
            if all(at.get(number, 0) == end for number, end in wanted.items()):
                return
            await asyncio.sleep(0.5)


async def _until(met: object, limit_s: float) -> None:
    assert callable(met)
    async with asyncio.timeout(limit_s):
        while not met():
            await asyncio.sleep(0.1)


def settings_on(stack: Stack, folder: Path) -> Settings:
    return Fleet(stack.environment, folder, DARKROOM_TOPICS__REQUESTS_PARTITIONS=str(PARTITIONS)).settings


def main() -> None:
    from darkroom.consumer.stack import Stack

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, metavar="N", help="on the request topic")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = os.environ.get("DARKROOM_TEST_STACK_DIR")
        stack = Stack(Path(kept) if kept else Path(folder) / "stack")
        try:
            stack.up()
            seen = asyncio.run(prove(settings_on(stack, Path(folder)), asked.records, seed=asked.seed))
        finally:
            if not kept:
                stack.down()
    told = asdict(seen) | {"watched": len(seen.watched), "followed": len(seen.followed), "problems": problems(seen)}
    print(json.dumps(told))
    raise SystemExit(bool(problems(seen)))


if __name__ == "__main__":
    main()
