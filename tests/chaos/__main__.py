"""`python -m tests.chaos --minutes 10`: faults of every kind, and the table that says whether anything was lost.

Most of the time the device is the simulated one, which is fast and dies on request; a share of it is the tiny model's,
whose pictures are compared with those of the same requests rendered alone. A run is named by its seed: the same one
gives the same requests and the same faults in the same order, though not the same moments. Exit code 0 only when every
record had its one right outcome.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from darkroom.consumer.stack import Stack
from darkroom.producer import tasks
from darkroom.producer.logs import configure
from darkroom.schemas.settings import LogSettings
from tests.chaos.run import Plan, run
from tests.chaos.schedule import schedule

TINY_SHARE = 0.25
"""Of the time: real pictures."""
TINY_WORKERS_MAX = 2
"""Each loads torch, for a minute or more on a busy machine, and so does each that a fault starts again."""
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
        "--device",
        choices=["both", "simulated", "tiny"],
        default="both",
        help="both, one after the other: the tiny model for a quarter of the time",
    )
    parser.add_argument("--no-poison", action="store_true", help="no requests that kill their workers")
    parser.add_argument("--json", action="store_true", help="print each part's verdict as one JSON object")
    parser.add_argument("--keep", type=Path, help="a folder for the logs, kept; else they are kept only when bad")
    arguments = parser.parse_args()
    shares = {"both": (1 - TINY_SHARE, TINY_SHARE), "simulated": (1.0, 0.0), "tiny": (0.0, 1.0)}[arguments.device]
    plans = [
        _plan(arguments, arguments.minutes * 60 * share, tiny=tiny)
        for share, tiny in zip(shares, (False, True), strict=True)
        if share
    ]
    sys.exit(_main(plans, arguments.keep, as_json=arguments.json))


def _plan(arguments: argparse.Namespace, seconds: float, *, tiny: bool) -> Plan:
    workers = min(arguments.workers, TINY_WORKERS_MAX) if tiny else arguments.workers
    return Plan(
        seed=arguments.seed,
        faults=schedule(arguments.seed + (1 if tiny else 0), workers),  # not the same faults first
        seconds=seconds,
        workers=workers,
        tiny_model=tiny,
        rate_per_s=arguments.rate or (2.0 if tiny else 8.0),
        poisons=0 if tiny or arguments.no_poison else max(1, round(seconds / POISON_EVERY_S)),
        poison_every_s=POISON_EVERY_S,
    )


def _main(plans: Sequence[Plan], keep: Path | None, *, as_json: bool) -> int:
    configure(LogSettings(level="error"), worker="chaos")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # that Kafka is away is no news here
    folder = keep or Path(tempfile.mkdtemp(prefix="darkroom-chaos-"))
    verdicts = []
    stack = Stack(folder / "stack")
    try:
        stack.up(lambda line: print(line, file=sys.stderr))
        for plan in plans:
            logs = folder / plan.name
            logs.mkdir(parents=True, exist_ok=True)
            verdict = tasks.run(run(plan, stack, logs))
            verdicts.append(verdict)
            print(json.dumps(verdict.as_dict(), default=str) if as_json else verdict.table() + "\n", flush=True)
    finally:
        stack.down()
        good = len(verdicts) == len(plans) and all(verdict.is_good for verdict in verdicts)
        if good and keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the logs are in {folder}", file=sys.stderr)
    return 0 if good else 1


if __name__ == "__main__":
    main()
