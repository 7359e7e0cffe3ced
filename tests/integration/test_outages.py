"""Proves that the death of Kafka or of the S3 server is a few lines in every log, and that each says when it is over.

On a stack of its own, whose servers are killed beside a worker, a gateway and `darkroom watch` as processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from darkroom.consumer.stack import Stack
from darkroom.producer.client.client import Client
from darkroom.schemas.events.request import GenerationRequest
from tests.integration.fleet import Fleet, wait_until
from tests.integration.gateways import GatewayProcess

pytestmark = pytest.mark.stack

AWAY_S = 8.0
LIMIT_S = 90.0
LINES_MAX = 4
"""One when it begins and one when it ends; room for a second outage while the server starts."""


class Logs:
    """What three processes said of an outage."""

    def __init__(self, fleet: Fleet, paths: dict[str, Path]) -> None:
        self.fleet = fleet
        self._paths = paths
        self._read = dict.fromkeys(paths, 0)

    def begin(self) -> None:
        """Count from here, where no outage is on: one may have begun while the servers started."""
        wait_until(lambda: not any(map(self._is_on, self._paths)), LIMIT_S, "the outages of the start to end")
        for name, path in self._paths.items():
            self._read[name] = len(path.read_text().splitlines())

    def _is_on(self, name: str) -> bool:
        text = self._paths[name].read_text()
        return text.count("does not answer; it is tried again") > text.count("answers again")

    def lines(self, name: str) -> list[str]:
        """What was said since, but for the outcomes that were published and what a rebalance says."""
        new = self._paths[name].read_text().splitlines()[self._read[name] :]
        return [line for line in new if not _is_routine(line)]

    def send(self, requests: Sequence[GenerationRequest]) -> None:
        """Publish requests."""

        async def sending() -> None:
            async with Client(self.fleet.settings, follow=False) as client:
                await client.send(requests)

        asyncio.run(sending())


def _is_routine(line: str) -> bool:
    return line.startswith("{") and json.loads(line)["level"] == "info" and "outage" not in json.loads(line)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One whose servers may be killed."""
    own = Stack(tmp_path_factory.mktemp("outages"))
    try:
        own.up()
        yield own
    finally:
        own.down()


@pytest.fixture(scope="module")
def logs(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logs]:
    folder = tmp_path_factory.mktemp("logs")
    fleet = Fleet(stack.environment, folder, DARKROOM_LOG__LEVEL="info", DARKROOM_TOPICS__REQUESTS_PARTITIONS="4")
    asyncio.run(fleet.make_topics())
    worker = fleet.start("--simulated-device", "1")
    gateway = GatewayProcess(fleet.environment, folder, "gateway")
    watch_log, completions = folder / "watch.log", folder / "completions"
    with watch_log.open("wb") as err, completions.open("wb") as out:
        watch = subprocess.Popen(
            [sys.executable, "-m", "darkroom", "watch", "--json"],
            env={**os.environ, **fleet.environment, "PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=err,
        )
    try:
        worker.wait_ready()
        gateway.wait_ready()
        found = Logs(fleet, {"worker": worker.log, "gateway": folder / "gateway.log", "watch": watch_log})
        requests = iter(fleet.requests(200))

        def is_followed() -> bool:  # it follows from its own beginning, which nothing else tells of
            found.send([next(requests)])
            return bool(completions.read_text())

        wait_until(is_followed, LIMIT_S, "`darkroom watch` to print a completion")
        yield found
    finally:
        watch.send_signal(signal.SIGINT)
        fleet.stop()
        gateway.kill()
        watch.wait(LIMIT_S)


def away(kill: Callable[[], None], start: Callable[[], None], meanwhile: Callable[[], None]) -> None:
    kill()
    try:
        meanwhile()
        time.sleep(AWAY_S)  # the length of the outage, not a wait for something to happen
    finally:
        start()


def told_of(logs: Logs, name: str, server: str) -> None:
    """See that a log has the outage's beginning and its end, and hardly anything else."""
    wait_until(lambda: any(f"{server} answers again" in line for line in logs.lines(name)), LIMIT_S, f"{name}'s word")
    lines = logs.lines(name)
    assert f"{server} does not answer" in lines[0]
    assert len(lines) <= LINES_MAX, "\n".join(lines)


def test_the_death_of_kafka(stack: Stack, logs: Logs) -> None:
    logs.begin()
    away(stack.kill_kafka, stack.start_kafka, lambda: None)
    for name in ("worker", "gateway", "watch"):
        told_of(logs, name, "Kafka")


def test_the_death_of_the_store(stack: Stack, logs: Logs) -> None:
    logs.begin()
    requests = logs.fleet.requests(240)[200:]
    away(stack.kill_s3, stack.start_s3, lambda: logs.send(requests))
    for name in ("worker", "gateway"):
        told_of(logs, name, "The object store")
    assert logs.lines("watch") == []
