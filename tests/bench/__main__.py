"""`make bench`: measures Darkroom beside the bare parts it is made of, as ratios in one run, and writes a report.

Absolute figures depend on the machine; the ratios are what is meant. The pictures of the report are drawn from
its JSON, so that they can be drawn again.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darkroom.consumer.stack import Stack
from darkroom.producer.logs import configure
from darkroom.schemas.settings import LogSettings
from tests.bench import report
from tests.bench.decoding import decoding
from tests.bench.engine import engine
from tests.bench.gateway import gateway
from tests.bench.guarantee import against_plain_commits
from tests.bench.joining import a_third_joins
from tests.bench.memory import resident_memory
from tests.bench.planner import plan_against_fleet
from tests.bench.poisson import latencies_under_load
from tests.bench.start_up import start_up
from tests.bench.throughput import against_memory, bare_puts, bare_transactions, without_delay

JOINS = 2
JOIN_BACKLOG = 1200
"""Requests that two workers with 20 ms steps are busy with for longer than the joins take."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="where report.md, JSON and plots go")
    parser.add_argument("--seed", type=int, default=1, help="of the load")
    parser.add_argument("--beside", type=Path, help="another checkout's folder, to compare decoding with")
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, to see that it runs")
    arguments = parser.parse_args()
    scale = 10 if arguments.quick else 1
    configure(LogSettings(level="warning"), worker="bench")
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-") as folder:
        stack = Stack(Path(folder) / "stack")
        say("starting Kafka and S3")
        stack.up()
        try:
            figures = asyncio.run(measure(stack.environment, Path(folder), arguments.seed, scale))
        finally:
            stack.down()
    figures["start_up"] = start_up()
    say("decoding, from the poll to the core's first decision")
    figures["decoding"] = decoding(arguments.beside, quick=arguments.quick)
    say("the engine beside diffusers' pipeline, without Kafka and S3")
    figures["engine"] = engine(quick=arguments.quick)
    say("Poisson arrivals at 70% load: the tiny model's curves on a virtual clock, then for real")
    figures["poisson"] = latencies_under_load(arguments.seed, scale)
    report.write(arguments.out, figures)
    print((arguments.out / "report.md").read_text())


async def measure(environment: Mapping[str, str], folder: Path, seed: int, scale: int) -> dict[str, Any]:
    """Every figure that needs the stack, one after the other."""
    figures: dict[str, Any] = {"seed": seed, "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    say("20 ms steps: the worker against the same rows fed to the engine from memory")
    figures["against_memory"] = await against_memory(environment, 256 // scale, seed)
    say("20 ms and 0 ms steps: the guarantee against plain at-least-once commits")
    figures["guarantee"] = await against_plain_commits(environment, 256 // scale, seed, 20.0)
    figures["guarantee_0ms"] = await against_plain_commits(environment, 1000 // scale, seed, 0.0)
    say("a third worker joins two busy ones")
    figures["joining"] = await a_third_joins(environment, folder, JOIN_BACKLOG, seed, JOINS // (2 if scale > 1 else 1))
    say("the planner's simulation against a real fleet of two")
    figures["planner"] = await plan_against_fleet(environment, folder, seed, scale)
    say("0 ms steps, no store")
    figures["no_store"] = await without_delay(environment, 4000 // scale, seed, store=False)
    say("a bare consume-and-produce loop with the same transactions")
    figures["bare_transactions"] = await bare_transactions(environment, 4000 // scale)
    say("0 ms steps, pictures stored")
    figures["stored"] = await without_delay(environment, 2000 // scale, seed, store=True)
    say("bare puts")
    figures["bare_puts"] = await bare_puts(environment, 2000 // scale)
    say("the gateway beside bare puts and bare produces")
    figures["gateway"] = await gateway(environment, folder, 2000 // scale)
    say("resident memory from 1,000 to 5,000 requests")
    figures["memory"] = await resident_memory(environment, folder, 1000 // scale)
    return figures


def say(line: str) -> None:
    print(f"== {line}", flush=True)


if __name__ == "__main__":
    main()
