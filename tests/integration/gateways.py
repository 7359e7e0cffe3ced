"""Gateways as processes beside a test's workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.integration.fleet import wait_until

READY_S_MAX = 60.0


class GatewayProcess:
    """`darkroom gateway` in a process of its own, on a free port, with its log in a file."""

    def __init__(self, environment: Mapping[str, str], folder: Path, name: str) -> None:
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "darkroom", "gateway", "--port", "0"],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )

    def events(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one kind."""
        found = []
        for line in self._log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("event") == event:
                    found.append(entry)
        return found

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.events('listening')[0]['port']}"

    def wait_ready(self) -> None:
        """Wait until it has Kafka and the store."""
        wait_until(self._is_ready, READY_S_MAX, "the gateway to be ready")

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()[-4000:]
        if not self.events("listening"):
            return False
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """As the kernel's out-of-memory killer does."""
        self.process.kill()
        self.process.wait()

    def end(self, limit_s: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(limit_s)
