"""Kafka's own console consumer on a topic of completions, and what whoever reads with it is told."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import signal
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Final

from tests.chaos.watch import Spot

END_S_MAX: Final = 60.0
SILENCE_MS: Final = 15_000
READ_ALL_S_MAX: Final = 180.0
_LINE: Final = re.compile(rb"^Partition:(\d+)\tOffset:(\d+)\t(\{.*\})$")


class Strangers:
    """Members of one group that come and go, and together read each completion at least once."""

    def __init__(self, command: list[str], servers: str, topic: str, folder: Path) -> None:
        """`command` runs a Java class with Kafka's tools on its class path."""
        properties = [f"--property=print.{what}=true" for what in ("partition", "offset")]
        self._command = [
            *command,
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            *("--bootstrap-server", servers, "--topic", topic, "--group", "strangers", *properties),
            *("--isolation-level", "read_committed", "--consumer-property", "auto.offset.reset=earliest"),
            *("--consumer-property", "auto.commit.interval.ms=1000"),
        ]
        self._folder = folder / "strangers"
        self._folder.mkdir()
        self._numbers = itertools.count()

    async def read(self, seconds: float, members: int = 2) -> None:
        """Let so many members join the group, and leave it after so long."""
        running = [self._start() for _ in range(members)]
        try:
            await asyncio.sleep(seconds)
        finally:
            for one in running:
                one.send_signal(signal.SIGTERM)
            for one in running:
                await asyncio.to_thread(one.wait, END_S_MAX)

    async def read_all(self) -> None:
        """Let one member read until nothing comes any more."""
        await asyncio.to_thread(self._start("--timeout-ms", str(SILENCE_MS)).wait, READ_ALL_S_MAX)

    def told(self) -> dict[Spot, set[Spot]]:
        """Return, by request record, the places of the completions that somebody read for it. More than one is bad."""
        found: dict[Spot, set[Spot]] = defaultdict(set)
        for file in self._folder.glob("*.out"):
            for line in file.read_bytes().splitlines():
                if (matched := _LINE.match(line)) is not None:
                    source = json.loads(matched[3])["source"]
                    found[source["partition"], source["offset"]].add((int(matched[1]), int(matched[2])))
        return dict(found)

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        # To a file of its own each: a pipe that nobody reads would stop the printing, and not the commits.
        number = next(self._numbers)
        with (self._folder / f"{number}.out").open("wb") as out, (self._folder / f"{number}.err").open("wb") as errors:
            return subprocess.Popen([*self._command, *options], stdout=out, stderr=errors)
