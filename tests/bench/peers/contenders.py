"""Who is compared: how each is started as a process of its own, is known to be ready, and says what its device did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from darkroom.consumer.stack.ports import free_ports
from darkroom.schemas.names import Topic
from darkroom.schemas.settings import Settings, load_settings
from tests.bench.peers.usage import kill_tree
from tests.integration.fleet import WorkerProcess, wait_until

READY_S_MAX = 300.0
"""Ray starts half a dozen processes; on two busy cores that takes minutes."""
STARTS_MAX = 3
ROOT = Path(__file__).resolve().parents[3]
BENCH_LIBRARIES = ROOT / ".venv" / "bench"
"""What `make bench` installs beside the rest: Ray."""


class NotStarted(Exception):  # noqa: N818 - what it is
    """A contender whose process ended, or was not ready in its time: which, and its log's end."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to serve requests."""

    name: str
    label: str
    module: str | None = None
    """None for Darkroom itself."""
    arguments: tuple[str, ...] = ()
    over_http: bool = False


DARKROOM = Kind("darkroom", "Darkroom")
ENDPOINT = Kind("fastapi", "FastAPI endpoint", "fastapi_endpoint", over_http=True)
PLAIN = Kind("plain", "plain worker", "plain_worker")
BATCH = Kind("batch", "batch worker", "batch_worker")
WIDE_BATCH = Kind("batch-256", "batch worker, window 256", "batch_worker", ("--window", "256"))
RAY = Kind("ray", "Ray Serve", "ray_serve")
KINDS = (ENDPOINT, PLAIN, BATCH, RAY, DARKROOM)


def installed(kind: Kind) -> bool:
    """Whether its libraries are there: Ray's are `make bench`'s own."""
    return kind is not RAY or (BENCH_LIBRARIES / "ray").is_dir()


@dataclass(frozen=True, slots=True)
class Worked:
    """What a device did since its process started."""

    busy_s: float = 0.0
    calls: float = 0.0
    """Pipeline calls, or steps: what rows share."""
    rows: float = 0.0
    """Summed over them."""

    def since(self, earlier: Worked) -> Worked:
        return Worked(self.busy_s - earlier.busy_s, self.calls - earlier.calls, self.rows - earlier.rows)

    @property
    def fill(self) -> float:
        """Rows that shared a call or a step, the mean of all."""
        return self.rows / self.calls if self.calls else 0.0


class Place:
    """Topics, a group and a folder of one contender's own on the shared stack."""

    def __init__(self, stack_environment: Mapping[str, str], folder: Path, kind: Kind, **settings: str) -> None:
        serial = uuid.uuid4().hex[:8]
        self.folder = folder / f"{kind.name}-{serial}"
        self.folder.mkdir(parents=True)
        self.environment = {
            **stack_environment,
            "DARKROOM_TOPICS__PREFIX": f"b{serial}.",
            "DARKROOM_KAFKA__GROUP_ID": f"bench-{serial}",
            **settings,
        }

    @property
    def settings(self) -> Settings:
        return load_settings(environ=self.environment)

    def topic(self, topic: Topic) -> str:
        return self.settings.topics.prefix + topic.value


class Contender:
    """A process of a kind. `profile` is of the simulated device; None for the tiny model."""

    def __init__(self, kind: Kind, place: Place, profile: Path | None) -> None:
        self.kind = kind
        self.place = place
        self._profile = profile
        self._serial = 0
        self._worker: WorkerProcess | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Of an endpoint."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, number: int = 0) -> None:
        """A first process, or another one after the first was killed; `number` tells those of one place apart."""
        self._serial += 1
        if self.kind.module is None:
            flags = [] if self._profile is None else ["--simulated-profile", str(self._profile)]
            name = f"{self.place.settings.kafka.group_id}-{number}-{self._serial}"
            self._worker = WorkerProcess(self.place.environment, self.place.folder, name, *flags)
            self._process = self._worker.process
            return
        if self.kind.over_http:
            [self._port] = free_ports(1)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"tests.bench.peers.{self.kind.module}", *self.kind.arguments],
                env={**os.environ, **self._variables()},
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def wait_ready(self) -> None:
        """Until it takes requests."""
        if self._worker is not None:
            self._worker.wait_ready()
            return
        try:
            wait_until(self._says_ready, READY_S_MAX, f"{self.kind.label} to be ready")
        except AssertionError as error:
            raise NotStarted(f"{self.kind.label}: {error}") from error

    def start_until_ready(self) -> None:
        """Start it, again if need be: Ray gives up where the machine is busy for half a minute.

        Raises `NotStarted`.
        """
        for attempt in range(STARTS_MAX):
            self.start()
            try:
                self.wait_ready()
            except NotStarted:
                self.kill()
                if attempt + 1 == STARTS_MAX:
                    raise
            else:
                return

    def worked(self) -> Worked:
        """What its device has done, by its own account: a worker's metrics, or the calls that a peer wrote down."""
        if self._worker is not None:
            return _scraped(self._worker.url("/metrics"))
        calls = [json.loads(line) for line in self._calls.read_text().splitlines()] if self._calls.exists() else []
        busy_s = sum(call["ended"] - call["began"] for call in calls)
        return Worked(busy_s, len(calls), sum(call["rows"] for call in calls))

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Lines of one kind in Darkroom's log."""
        assert self._worker is not None
        return self._worker.events(event)

    def logged_at(self, event: str) -> float:
        """When the first of them was written, in seconds since the epoch."""
        return datetime.fromisoformat(self.logged(event)[0]["timestamp"]).timestamp()

    def kill(self) -> None:
        """SIGKILL to it and all that it started."""
        if self._process is not None:
            kill_tree(self._process.pid)
            self._process.wait()

    @property
    def _log(self) -> Path:
        return self.place.folder / f"{self._serial}.log"

    @property
    def _calls(self) -> Path:
        return self.place.folder / "calls.jsonl"

    def _says_ready(self) -> bool:
        assert self._process is not None
        said = self._log.read_text(errors="replace")
        if self._process.poll() is not None:
            raise AssertionError(f"{self.kind.label} ended at its start:\n{said[-4000:]}")
        return "ready" in said.splitlines()

    def _variables(self) -> dict[str, str]:
        settings = self.place.settings
        s3 = settings.s3
        assert s3.access_key is not None
        assert s3.secret_key is not None
        variables = {
            "KAFKA_BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
            "GROUP_ID": settings.kafka.group_id,
            "REQUESTS_TOPIC": self.place.topic(Topic.REQUESTS),
            "COMPLETIONS_TOPIC": self.place.topic(Topic.COMPLETIONS),
            "S3_ENDPOINT": s3.endpoint.partition("//")[2],
            "S3_ACCESS_KEY": s3.access_key.get_secret_value(),
            "S3_SECRET_KEY": s3.secret_key.get_secret_value(),
            "S3_BUCKET": s3.bucket,
            "CALLS_FILE": str(self._calls),
            "PORT": str(self._port),
            "TMPDIR": str(self.place.folder),
            "PYTHONPATH": os.pathsep.join([str(ROOT), *([str(BENCH_LIBRARIES)] if self.kind is RAY else [])]),
        }
        if self.kind is RAY:
            # Its sockets' paths must stay short. It is on loopback and for this run only: no token in the home folder.
            variables |= {"TMPDIR": "/tmp", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
        if self._profile is not None:
            variables["SIMULATED_PROFILE"] = str(self._profile)
        return variables


def _scraped(url: str) -> Worked:
    text = urllib3.request("GET", url, timeout=5.0).data.decode()
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }
    names = ("darkroom_step_seconds_sum", "darkroom_batch_rows_count", "darkroom_batch_rows_sum")
    return Worked(*(values[name] for name in names))
