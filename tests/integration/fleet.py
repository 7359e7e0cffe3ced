"""Workers as processes on the embedded stack, each test on topics, a group and a bucket prefix of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import urllib3

from darkroom.consumer.audit.audit import AuditReport, audit
from darkroom.producer.kafka.topics import ensure_topics
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings, load_settings

READY_S_MAX = 120.0


class WorkerProcess:
    """`darkroom serve` in a process of its own, with its log in a file."""

    def __init__(self, environment: Mapping[str, str], folder: Path, name: str, *flags: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "darkroom", "serve", "--name", name, "--metrics-port", "0", *flags],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one kind."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == event:
                    found.append(entry)
        return found

    def url(self, path: str) -> str:
        """An address on its metrics port."""
        port = self.events("health and metrics")[0]["port"]
        return f"http://127.0.0.1:{port}{path}"

    def is_ready(self) -> bool:
        """Whether `/readyz` says so."""
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended at its start:\n{self.log.read_text()[-4000:]}")
        if not self.events("health and metrics"):
            return False
        try:
            return urllib3.request("GET", self.url("/readyz"), timeout=2.0, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def wait_ready(self) -> None:
        """Wait until it takes records."""
        wait_until(self.is_ready, READY_S_MAX, f"{self.name} to be ready")

    def kill(self) -> None:
        """As the kernel's out-of-memory killer does."""
        self.process.kill()
        self.process.wait()

    def drain(self, limit_s: float = 60.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit_s)


class Fleet:
    """Workers that share topics and a group made for one test."""

    def __init__(self, stack_environment: Mapping[str, str], folder: Path, **settings: str) -> None:
        serial = uuid.uuid4().hex[:8]
        self.environment = {
            **stack_environment,
            "DARKROOM_TOPICS__PREFIX": f"t{serial}.",
            "DARKROOM_KAFKA__GROUP_ID": f"group-{serial}",
            "DARKROOM_KAFKA__SESSION_TIMEOUT_MS": "6000",
            "DARKROOM_LOG__LEVEL": "debug",
            **settings,
        }
        self.serial = serial
        self.folder = folder
        self.workers: list[WorkerProcess] = []

    @property
    def settings(self) -> Settings:
        """As its workers have them."""
        return load_settings(environ=self.environment)

    async def make_topics(self) -> None:
        """Before any worker starts."""
        await ensure_topics(self.settings)

    def start(self, *flags: str) -> WorkerProcess:
        """One more worker."""
        worker = WorkerProcess(self.environment, self.folder, f"w{len(self.workers)}-{self.serial}", *flags)
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        """Whatever still runs."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()

    async def audit(self) -> AuditReport:
        """Of its topics and the bucket."""
        async with MinioObjects(self.settings.s3) as objects:
            return await audit(self.settings, objects)

    def rendered(self) -> Counter[str]:
        """How often each request was rendered, by the workers' logs."""
        return Counter(entry["request_id"] for worker in self.workers for entry in worker.events("rendered"))

    def requests(self, number_of: int, **fields: Any) -> list[GenerationRequest]:
        """New requests of mixed steps."""
        made = []
        for number in range(number_of):
            steps = (20, 25, 30, 40)[number % 4]
            values = {"request_id": f"{self.serial}-{number}", "prompt": f"figure {number}", "steps": steps, **fields}
            made.append(GenerationRequest.model_validate(values))
        return made


def wait_until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    """Wait for a condition, with a limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(0.05)


async def until(condition: Callable[[], bool], limit_s: float, what: str) -> None:
    """The same, without holding up the event loop."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.05)
