"""How long `init`'s offsets and the opening of partitions take on a quiet broker: `python -m tests.bench.opening`.

Wants a broker in the environment (`darkroom env`). To compare two checkouts run it in each of them in turn, several
times: the fastest run counts, since noise only ever adds.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.broker import KafkaBroker
from darkroom.consumer.kafka.initial_offsets import commit_offsets
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.schemas.settings import Settings, load_settings

PARTITIONS = 12
RUNS = 7


async def measure() -> dict[str, float]:
    """Return the fastest of some runs, in seconds, on topics and a group of its own."""
    name = f"opening-{uuid.uuid4().hex[:8]}"
    settings = load_settings(
        overrides={
            "topics.prefix": f"{name}.",
            "topics.requests_partitions": PARTITIONS,
            "topics.completions_partitions": 1,
            "kafka.group_id": name,
        }
    )
    await ensure_topics(settings)
    initializing, opening = [], []
    for _ in range(RUNS):
        begun = time.perf_counter()
        await commit_offsets(settings)
        initializing.append(time.perf_counter() - begun)
        opening.append(await _open_all(settings))
    return {"init_seconds": min(initializing), f"opening_{PARTITIONS}_partitions_seconds": min(opening)}


async def _open_all(settings: Settings) -> float:
    """Join as the only member and open every partition as a worker does, all at once."""
    broker = KafkaBroker(settings, topic=settings.topics.requests, client_id="opening")
    assigned: asyncio.Future[frozenset[PartitionKey]] = asyncio.get_running_loop().create_future()

    def on_assigned(partitions: frozenset[PartitionKey]) -> None:
        if partitions and not assigned.done():
            assigned.set_result(partitions)

    await broker.join(lambda _partitions: None, on_assigned)
    try:
        partitions = await assigned
        begun = time.perf_counter()
        await asyncio.gather(*(broker.open(one, prove_ownership=False) for one in partitions))
        return time.perf_counter() - begun
    finally:
        await broker.leave()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure())))
