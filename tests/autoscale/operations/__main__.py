"""`make test-operations`: the commands of the chart's README, "Operations", on a real control plane.

Exit code 0 only when every command ran and did what it is for. 2 where programs are missing: then nothing was proven.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Final

from darkroom.consumer.stack import StackError
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.logs import configure
from darkroom.schemas.settings import LogSettings
from tests.autoscale import binaries
from tests.autoscale.api import ApiError
from tests.autoscale.binaries import Missing
from tests.autoscale.case import TooLong
from tests.autoscale.operations import recovery, upkeep
from tests.autoscale.operations.desk import CommandFailed
from tests.autoscale.operations.site import NotSo, Site, installed
from tests.autoscale.plane import PlaneError
from tests.autoscale.report import in_words

Operation = Callable[[Site, str], Coroutine[None, None, str]]

OPERATIONS: Final[Mapping[str, Operation]] = {
    "Upgrade a model with no gap": upkeep.upgrade_a_model,
    "Rotate keys": upkeep.rotate_keys,
    "Drain a node": upkeep.drain_a_node,
    "Replay dead letters": upkeep.replay_dead_letters,
    "Grow partitions": upkeep.grow_partitions,
    "Back up configuration": recovery.back_up,
    "Disaster recovery": recovery.recover,
    "Clear old pictures": upkeep.clear_old_pictures,
}
"""By their headings in the README, in the order in which they can be run: what removes pictures comes last."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.autoscale.operations", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(OPERATIONS), help="an operation; repeatable")
    parser.add_argument("--keep", type=Path, help="a new folder for all logs; else they are kept only when bad")
    arguments = parser.parse_args()
    if arguments.keep is not None and arguments.keep.exists():
        parser.error(f"{arguments.keep} is there already: name a folder that is to be made")
    configure(LogSettings(level="error"), worker="operations")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        programs, clients = binaries.find(), binaries.find_clients()
    except Missing as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="darkroom-operations-"))
    results: list[tuple[str, bool, str]] = []
    try:
        with installed(programs, clients, folder, _say) as site:
            results = [_one(site, title) for title in OPERATIONS if title in (arguments.only or OPERATIONS)]
    except* (PlaneError, ApiError, TooLong, CommandFailed, StackError) as several:
        print(in_words(several), file=sys.stderr)
    finally:
        good = bool(results) and all(holds for _, holds, _ in results)
        if good and arguments.keep is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"the logs are in {folder}", file=sys.stderr)
    for title, holds, seen in results:
        print(f"{'ok ' if holds else 'BAD'}  {title}\n       {seen}")
    print(f"\n{'GOOD' if good else 'BAD'}")
    sys.exit(0 if good else 1)


def _one(site: Site, title: str) -> tuple[str, bool, str]:
    _say(f"{title}:")
    begun = time.monotonic()
    holds = True
    try:
        seen = asyncio.run(OPERATIONS[title](site, title))
    except (NotSo, TooLong, CommandFailed, KafkaUnavailable, TimeoutError) as error:
        seen, holds = f"{type(error).__name__}: {error}", False
    seen = f"{seen} ({time.monotonic() - begun:.0f} s)"
    _say(f"  {'ok' if holds else 'BAD'}: {seen}")
    return title, holds, seen


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
