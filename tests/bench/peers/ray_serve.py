"""Ray Serve: a deployment with `@serve.batch`, fed from Kafka. What waits is a batch; alike requests share a call."""

from __future__ import annotations

import asyncio
import json

import ray
from ray import serve

from tests.bench.peers.painting import Painter, Request, groups
from tests.bench.peers.wiring import Publisher, consumer, say_ready

WINDOW = 64
"""Requests under way, and the most of a batch: with eight kinds of calls in it, as the batch worker's window."""
BATCH_WAIT_S = 0.01
"""Ray's default. Longer only adds latency: under load a batch fills while the one before is rendered."""


@serve.deployment(max_ongoing_requests=2 * WINDOW, ray_actor_options={"num_cpus": 1})
class Generator:
    def __init__(self) -> None:
        self._painter = Painter.from_environment()

    @serve.batch(max_batch_size=WINDOW, batch_wait_timeout_s=BATCH_WAIT_S)  # type: ignore[untyped-decorator] # no types
    async def __call__(self, requests: list[Request]) -> list[bytes]:
        pictures: dict[int, bytes] = {}
        for places in groups(requests):
            together = [requests[place] for place in places]
            pictures.update(zip(places, await asyncio.to_thread(self._painter.paint, together), strict=True))
        return [pictures[place] for place in range(len(requests))]


async def main() -> None:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    # Nobody calls over HTTP: no proxy.
    serve.start(http_options={"location": "NoServer"})
    generator = serve.run(Generator.bind(), route_prefix=None)  # type: ignore[attr-defined] # the decorator's

    async def handle(request: Request) -> None:
        await publisher.publish(request, await generator.remote(request))

    async with consumer() as records, Publisher() as publisher:
        say_ready()
        while True:
            taken = await records.getmany(timeout_ms=1000, max_records=WINDOW)
            requests = [json.loads(record.value) for batch in taken.values() for record in batch]
            await asyncio.gather(*map(handle, requests))
            if requests:
                await records.commit()


if __name__ == "__main__":
    asyncio.run(main())
