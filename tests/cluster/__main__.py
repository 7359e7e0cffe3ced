"""`python -m tests.cluster --minutes 20`: rolling restarts of three brokers, and whether anything is missing.

Exit code 0 only when every record had its one outcome and readiness said in time what was the matter. `--kafka 3.9.2`
runs that version instead of the embedded one. Maven fetches it, and the console consumer of either.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
from pathlib import Path

from darkroom.consumer.stack import Stack
from darkroom.consumer.stack.jars import KAFKA_VERSION
from darkroom.producer import tasks
from darkroom.producer.logs import configure
from darkroom.schemas.settings import LogSettings
from tests.cluster.jars import jars_of
from tests.cluster.proof import WAYS, Plan, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long restarts go on")
    parser.add_argument("--kafka", help="another version than the embedded one, fetched by Maven: 3.9.2")
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second on average")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8, help="on a device at once")
    parser.add_argument(
        "--clean", action="store_true", help="only clean restarts: no broker is killed or frozen, nothing is withdrawn"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the requests")
    parser.add_argument("--keep", type=Path, help="a folder for the logs, kept; else they are kept only when bad")
    arguments = parser.parse_args()
    configure(LogSettings(level="error"), worker="proof")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="darkroom-cluster-"))
    folder.mkdir(parents=True, exist_ok=True)
    tools = jars_of(arguments.kafka or KAFKA_VERSION, folder / "jars")
    plan = Plan(
        seconds=arguments.minutes * 60,
        rate_per_s=arguments.rate,
        workers=arguments.workers,
        rows=arguments.rows,
        ways=("stop",) if arguments.clean else WAYS,
        extras=not arguments.clean,
        seed=arguments.seed,
        jars=None if arguments.kafka is None else tools,
        tools=tools,
    )
    stack = Stack(folder / "stack")
    good = False
    try:
        stack.up(lambda line: print(line, file=sys.stderr))
        outcome = tasks.run(run(plan, dict(stack.environment), folder))
        print(outcome.table(), flush=True)
        good = outcome.is_good
    finally:
        stack.down()
        if good and arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the logs are in {folder}", file=sys.stderr)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
