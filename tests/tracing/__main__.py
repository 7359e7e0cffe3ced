"""Writes a trace of twelve requests as OTLP JSON: `make trace-demo`. On a real Kafka and S3 server, a simulated device.

One POST to the gateway each, with a caller's `traceparent`; two workers. Ends with 1 unless every request's trace leads
from the call to its completion.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import uuid
from collections import Counter
from pathlib import Path

import httpx

from darkroom.consumer.stack import Stack
from tests.integration.fleet import Fleet
from tests.integration.gateways import GatewayProcess
from tests.tracing.collector import Collector, Seen

OUT = Path("trace-out")
REQUESTS = 12
PARTS = ("prepare", "device", "finish", "store")


async def submit(url: str, serial: str) -> list[str]:
    """Submit the requests and wait for their outcomes. Return their trace ids."""
    traces = [uuid.uuid4().hex for _ in range(REQUESTS)]
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as http:

        async def one(number: int) -> None:
            called = await http.post(
                "/v1/generations",
                json={"request_id": f"{serial}-{number}", "prompt": f"figure {number}", "steps": 10 + number},
                headers={"traceparent": f"00-{traces[number]}-{uuid.uuid4().hex[:16]}-01"},
            )
            called.raise_for_status()
            ended = await http.get(f"{called.json()['status_url']}?wait=60")
            assert ended.json()["status"] == "succeeded", ended.text

        await asyncio.gather(*map(one, range(REQUESTS)))
    return traces


def table(spans: list[Seen], traces: list[str]) -> bool:
    """Print a line for each request. Return whether each has all of its spans."""
    complete = True
    print("trace                             spans   call ms   " + "   ".join(f"{part} ms" for part in PARTS))
    for trace in traces:
        own = [one for one in spans if one.trace_id == trace]
        lasted = {one.name: (one.ended_ns - one.began_ns) / 1e6 for one in own}
        kinds = Counter(one.kind for one in own)
        complete &= kinds["SERVER"] >= 1 and kinds["PRODUCER"] == 2 and kinds["CONSUMER"] == 1
        complete &= all(part in lasted for part in PARTS)
        parts = "   ".join(f"{lasted.get(part, float('nan')):{len(part) + 3}.1f}" for part in PARTS)
        print(f"{trace}  {len(own):5}   {lasted.get('POST /v1/generations', float('nan')):7.1f}   {parts}")
    return complete


def main() -> int:
    """Run it. Return the exit code."""
    with tempfile.TemporaryDirectory() as folder, Collector() as collector:
        stack = Stack(Path(folder) / "stack")
        print("Starting Kafka and the S3 server", flush=True)
        stack.up()
        fleet = Fleet(stack.environment, Path(folder), **collector.environment)
        gateway = None
        try:
            asyncio.run(fleet.make_topics())
            print("Starting a gateway and two workers", flush=True)
            workers = [fleet.start("--simulated-device", "5") for _ in range(2)]
            gateway = GatewayProcess(fleet.environment, Path(folder), "gateway")
            for process in (*workers, gateway):
                process.wait_ready()
            print(f"Sending {REQUESTS} requests", flush=True)
            traces = asyncio.run(submit(gateway.url, fleet.serial))
            for worker in workers:
                worker.drain()  # its last spans are sent
            gateway.end()
        finally:
            fleet.stop()
            if gateway is not None:
                gateway.kill()
            stack.down()
        complete = table(collector.spans, traces)
        OUT.mkdir(exist_ok=True)
        collector.write(OUT / "trace.json")
        print(f"\n{OUT / 'trace.json'} is OTLP JSON: open it with Jaeger's page (Search, Upload) or another viewer.")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
