"""Darkroom beside what people have: measures everybody in one run on one machine and writes a report.

Absolute figures depend on the machine; the ratios are what is meant.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from darkroom.consumer.stack import Stack
from darkroom.producer.logs import configure
from darkroom.schemas.settings import LogSettings
from tests.bench.peers import page
from tests.bench.peers.cold_page import cold
from tests.bench.peers.contenders import RAY, installed
from tests.bench.peers.kept import Kept
from tests.bench.peers.kill_page import kills
from tests.bench.peers.loads import CURVES
from tests.bench.peers.peers_page import peers
from tests.bench.peers.scale_page import scale
from tests.bench.peers.tiny_page import tiny
from tests.bench.throughput import against_memory, without_delay

PAGES = {"peers": 18.0, "scale": 6.0, "cold": 4.0, "kill": 5.0, "tiny": 9.0}
"""Minutes that each may take; usual is about two thirds. One that takes longer is given up: the machine is busy."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-out/peers"), help="where report.md, JSON and plots go")
    parser.add_argument("--seed", type=int, default=1, help="of the load")
    parser.add_argument("--only", choices=PAGES, action="append", help="a page alone; may be given again")
    parser.add_argument("--curve", choices=CURVES, action="append", help="a curve alone; may be given again")
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, to see that it runs")
    arguments = parser.parse_args()
    configure(LogSettings(level="warning"), worker="bench")
    if not installed(RAY):
        say("Ray is left out: `make bench` installs it")
    with tempfile.TemporaryDirectory(prefix="darkroom-peers-", ignore_cleanup_errors=True) as folder:
        stack = Stack(Path(folder) / "stack")
        say("starting Kafka and S3")
        stack.up()
        try:
            asyncio.run(measure(stack.environment, Path(folder), arguments))
        finally:
            stack.down()
    print((arguments.out / "report.md").read_text())


async def measure(environment: Mapping[str, str], folder: Path, arguments: argparse.Namespace) -> None:
    """Page after page; what there is so far is written as it comes. An earlier run's pages in that folder are kept."""
    figures = page.read(arguments.out, seed=arguments.seed)
    for name in arguments.only or PAGES:
        say(f"page {name}, at most {PAGES[name]:.0f} minutes")
        run: dict[str, Any] = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0],
            "finished": False,
        }
        began = time.monotonic()
        figures[name], figures["runs"][name] = {}, run

        def keep(run: dict[str, Any] = run, began: float = began) -> None:
            run["minutes"] = round((time.monotonic() - began) / 60, 1)
            run["load_after"] = os.getloadavg()[0]
            page.write(arguments.out, figures)

        try:
            async with asyncio.timeout(PAGES[name] * 60):
                await one_page(name, Kept(figures[name], keep), environment, folder, arguments)
            run["finished"] = True
        except TimeoutError:
            say(f"page {name} was not finished in {PAGES[name]:.0f} minutes: run it again, --only {name}")
        keep()


async def one_page(
    name: str, kept: Kept, environment: Mapping[str, str], folder: Path, arguments: argparse.Namespace
) -> None:
    """Measure a page, and keep its figures as they come. `--curve` leaves out of a page what is not of that curve."""
    seed, quick = arguments.seed, arguments.quick
    match name:
        case "peers":
            if not arguments.curve:
                say("20 ms steps: the worker against the same rows fed to the engine from memory")
                kept.keep(await against_memory(environment, 64 if quick else 256, seed), "against_memory")
                kept.keep(await without_delay(environment, 400 if quick else 4000, seed, store=False), "no_store")
            curves = arguments.curve or CURVES
            await peers(kept, environment, folder, seed, quick=quick, say=say, curves=curves)
        case "scale":
            await scale(kept, environment, folder, seed, quick=quick, say=say)
        case "cold":
            kept.keep_all(await cold(environment, folder, seed, quick=quick))
        case "kill":
            await kills(kept, environment, folder, seed, quick=quick, say=say)
        case _:
            await tiny(kept, environment, folder, seed, quick=quick, say=say)


def say(line: str) -> None:
    print(f"== {time.strftime('%H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    main()
