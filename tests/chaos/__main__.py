"""`python -m tests.chaos --minutes 10`: faults of every kind, and the table that says whether anything was lost.

A run is named by its seed: the same one gives the same requests and the same faults in the same order, though not
the same moments. Exit code 0 only when every record had its one right outcome.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from consumer.logs import configure
from consumer.stack import Stack
from schemas.settings import LogSettings
from tests.chaos.run import Plan, run
from tests.chaos.schedule import schedule

TINY_EVERY = 4
"""One seed in four has real pictures."""
POISON_EVERY_S = 75.0
"""A request that kills four workers one after the other holds up its neighbours for half a minute."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=2.0, help="how long faults go on; the end takes about one more"
    )
    parser.add_argument("--seed", type=int, default=1, help="of requests and faults")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--rate", type=float, help="requests a second on average")
    parser.add_argument(
        "--device", choices=["auto", "simulated", "tiny"], default="auto", help="auto: tiny for one seed in four"
    )
    parser.add_argument("--no-poison", action="store_true", help="no requests that kill their workers")
    parser.add_argument("--json", action="store_true", help="print the verdict as one JSON object")
    parser.add_argument("--keep", type=Path, help="a folder for the logs, kept; else they are kept only when bad")
    arguments = parser.parse_args()
    tiny = arguments.device == "tiny" or (arguments.device == "auto" and arguments.seed % TINY_EVERY == 0)
    seconds = arguments.minutes * 60
    plan = Plan(
        seed=arguments.seed,
        faults=schedule(arguments.seed, arguments.workers),
        seconds=seconds,
        workers=arguments.workers,
        tiny_model=tiny,
        rate_per_s=arguments.rate or (2.0 if tiny else 8.0),
        poisons=0 if tiny or arguments.no_poison else max(1, round(seconds / POISON_EVERY_S)),
        poison_every_s=POISON_EVERY_S,
    )
    sys.exit(_main(plan, arguments.keep, as_json=arguments.json))


def _main(plan: Plan, keep: Path | None, *, as_json: bool) -> int:
    configure(LogSettings(level="error"), worker="chaos")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that Kafka is away is no news here
    folder = keep or Path(tempfile.mkdtemp(prefix="darkroom-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    good = False
    stack = Stack(folder / "stack")
    try:
        stack.up(lambda line: print(line, file=sys.stderr))
        verdict = asyncio.run(run(plan, stack, folder))
        good = verdict.is_good
        print(json.dumps(verdict.as_dict(), default=str) if as_json else verdict.table())
    finally:
        stack.down()
        if good and keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the logs are in {folder}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    main()
