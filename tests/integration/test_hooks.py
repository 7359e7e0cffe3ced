"""Proves callbacks on a real Kafka and a real S3 server: every completion is delivered at least once, whoever dies."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.names import callback_key
from tests.integration.fleet import Fleet, wait_until
from tests.integration.gateways import GatewayProcess

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LIMIT_S = 60.0


class Receiver:
    """A receiver as its own programmers write it: verifies, notes, answers. Can be stopped and started again."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        """Request id and webhook-id of each callback that was taken."""
        self.forged = 0
        self.dies_after: int | None = None
        """Callbacks after which it ends in the middle of a call: it has noted the job, and does not answer."""
        self._server: ThreadingHTTPServer | None = None
        self.port = 0

    def start(self) -> None:
        """Listen: on a free port the first time, and on the same one later."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if not receiver.verifies(self.headers, body):
                    receiver.forged += 1
                    self.send_error(400)
                    return
                told = json.loads(body)
                assert told["type"] == "darkroom.generation.completed.v1"
                receiver.seen.append((told["data"]["request_id"], self.headers["webhook-id"]))
                if receiver.dies_after is not None and len(receiver.seen) >= receiver.dies_after:
                    self.close_connection = True
                    return
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @staticmethod
    def verifies(headers: Any, body: bytes) -> bool:
        """Verify as Standard Webhooks 1.0 says, with nothing of Darkroom's."""
        key = base64.b64decode(SECRET.removeprefix("whsec_"))
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        mine = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        is_fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 300
        return is_fresh and f"v1,{mine}" in headers["webhook-signature"].split(" ")

    @property
    def jobs(self) -> set[str]:
        """The jobs that it was told of."""
        return {job for job, _ in self.seen}


class HooksProcess:
    """`darkroom hooks` in a process of its own."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.log = folder / f"hooks-{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "darkroom", "hooks", "--metrics-port", "0"],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )

    def call(self, path: str) -> httpx.Response:
        """Ask its port."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        [port] = [line["port"] for line in lines if line.get("event") == "serving"]
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5, trust_env=False)

    def is_ready(self) -> bool:
        """Return whether `/readyz` says so."""
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        with contextlib.suppress(httpx.HTTPError, ValueError):
            return self.call("/readyz").status_code == 200
        return False


class Street:
    """A worker, a gateway and a receiver of one deployment, and the environment of `darkroom hooks`."""

    def __init__(self, fleet: Fleet, gateway: GatewayProcess, environment: dict[str, str], folder: Path) -> None:
        self.fleet = fleet
        self.gateway = gateway
        self.environment = environment
        self.folder = folder
        self.receiver = Receiver()
        self.hooks: list[HooksProcess] = []

    def start_hooks(self, **more: str) -> HooksProcess:
        """One more process."""
        self.hooks.append(HooksProcess({**self.environment, **more}, self.folder))
        return self.hooks[-1]

    async def submit(self, name: str, number_of: int, url: str | None) -> set[str]:
        """Submit jobs over HTTP, and return their ids."""
        names = {f"{self.fleet.serial}-{name}-{number}" for number in range(number_of)}
        async with httpx.AsyncClient(base_url=self.gateway.url, timeout=LIMIT_S, trust_env=False) as caller:
            for one in sorted(names):
                order = {"request_id": one, "prompt": "a dancer", "steps": 2, "callback_url": url}
                answer = await caller.post("/v1/generations", json=order)
                assert answer.status_code == 202, answer.text
        return names


@pytest.fixture
def street(stack: Stack, tmp_path: Path) -> Iterator[Street]:
    """Ready to be called."""
    file = tmp_path / "callbacks.toml"
    file.write_text(f'[tenants.default]\nsecrets = ["{SECRET}"]\n')
    own = {"DARKROOM_HOOKS__FILE": str(file), "DARKROOM_HOOKS__ALLOWED_NETWORKS": "127.0.0.0/8"}
    fleet = Fleet(stack.environment, tmp_path, **own)
    asyncio.run(fleet.make_topics())
    worker = fleet.start("--simulated-device", "1")
    gateway = GatewayProcess(fleet.environment, tmp_path, "gateway")
    street = Street(fleet, gateway, fleet.environment, tmp_path)
    try:
        worker.wait_ready()
        gateway.wait_ready()
        street.receiver.start()
        yield street
    finally:
        street.receiver.stop()
        for one in (*street.hooks, gateway):
            if one.process.poll() is None:
                one.process.kill()
        fleet.stop()


async def told_of(street: Street, jobs: set[str]) -> None:
    """Wait until the receiver was told of all these jobs."""
    limit = time.monotonic() + LIMIT_S
    while not jobs <= street.receiver.jobs:
        assert time.monotonic() < limit, (sorted(jobs - street.receiver.jobs), street.hooks[-1].log.read_text()[-4000:])
        await asyncio.sleep(0.1)


async def test_a_receiver_and_the_hooks_that_are_killed_and_restarted_miss_no_completion(street: Street) -> None:
    receiver = street.receiver
    url = f"http://127.0.0.1:{receiver.port}/done"
    first = street.start_hooks()
    await asyncio.to_thread(wait_until, first.is_ready, LIMIT_S, "the hooks to be ready")
    told = await street.submit("first", 10, url)
    unasked = await street.submit("unasked", 2, None)
    await told_of(street, told)
    # The receiver dies in the middle: what it noted last was never answered.
    receiver.dies_after = len(receiver.seen) + 3
    told |= await street.submit("dies", 10, url)
    await asyncio.to_thread(wait_until, lambda: len(receiver.seen) >= (receiver.dies_after or 0), LIMIT_S, "its end")
    receiver.stop()
    receiver.dies_after = None
    told |= await street.submit("away", 10, url)
    # While it is away the deliverer is killed, and another one takes its place.
    first.process.kill()
    first.process.wait()
    second = street.start_hooks()
    told |= await street.submit("killed", 5, url)
    receiver.start()
    await told_of(street, told)
    assert not unasked & receiver.jobs
    assert not receiver.forged
    ids: dict[str, set[str]] = {}
    for job, webhook_id in receiver.seen:
        ids.setdefault(job, set()).add(webhook_id)
    assert all(len(found) == 1 for found in ids.values()), "a repetition has the id of the first delivery"
    assert len(set.union(*ids.values())) == len(ids), "and no two jobs share one"
    assert len(receiver.seen) > len(ids), "what was not answered came again"
    # What is settled is committed: a third one has nothing to deliver again.
    second.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(second.process.wait, 30) == 0
    seen = len(receiver.seen)
    street.start_hooks()
    last = await street.submit("last", 1, url)
    await told_of(street, last)
    assert len(receiver.seen) == seen + 1


async def test_what_nobody_takes_is_a_dead_letter_beside_the_job_and_holds_up_nobody(street: Street) -> None:
    receiver = street.receiver
    nobody = Receiver()
    nobody.start()
    nobody.stop()
    hooks = street.start_hooks(DARKROOM_HOOKS__GIVE_UP_S="1")
    dead = await street.submit("dead", 1, f"http://127.0.0.1:{nobody.port}/")
    told = await street.submit("told", 5, f"http://127.0.0.1:{receiver.port}/")
    await told_of(street, told)
    [job] = dead
    settings = street.fleet.settings
    key = callback_key("default", job, prefix=settings.s3.prefix)
    async with MinioObjects(settings.s3) as objects, asyncio.timeout(LIMIT_S):
        while (letter := await objects.get(key, bytes_max=100_000)) is None:
            await asyncio.sleep(0.2)
    found = json.loads(letter)
    assert found["body"]["data"]["request_id"] == job
    assert found["attempts"] >= 3
    assert "not reached" in found["error"]
    metrics = (await asyncio.to_thread(hooks.call, "/metrics")).text
    assert 'darkroom_hooks_total{result="dead_lettered"} 1.0' in metrics
    assert 'darkroom_hooks_total{result="delivered"} 5.0' in metrics
    assert "darkroom_hooks_waiting 0.0" in metrics


async def test_processes_share_the_work_and_take_over_from_one_that_is_killed(street: Street) -> None:
    receiver = street.receiver
    url = f"http://127.0.0.1:{receiver.port}/"
    pair = [street.start_hooks(), street.start_hooks()]
    for one in pair:
        await asyncio.to_thread(wait_until, one.is_ready, LIMIT_S, "the hooks to be ready")
    told = await street.submit("shared", 12, url)
    await told_of(street, told)
    counts = [await asyncio.to_thread(delivered_by, one) for one in pair]
    assert sum(counts) >= len(told)
    pair[0].process.kill()
    pair[0].process.wait()
    told |= await street.submit("after", 12, url)
    await told_of(street, told)
    assert not receiver.forged


def delivered_by(hooks: HooksProcess) -> int:
    """Return how many callbacks a process has delivered, by its metrics."""
    lines = hooks.call("/metrics").text.splitlines()
    [line] = [line for line in lines if line.startswith('darkroom_hooks_total{result="delivered"}')]
    return int(float(line.split()[-1]))
