"""The page's real surroundings: a gateway as a process, workers as processes, and Chromium, which the system brings."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Route, expect, sync_playwright

from tests.integration.fleet import Fleet, wait_until

READY_S_MAX = 60.0
SEEN_MS_MAX = 20_000
"""What anything on the page may take: a limit for machines that are busy with other things."""
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
NO_CHROMIUM = "there is no Chromium: install it with `apt-get install chromium`, or name it by DARKROOM_TEST_CHROMIUM"
STRICT = "default-src 'self'; img-src 'self' data: blob:"
"""The content security policy under which the page has to work; the gateway's own may only be stricter."""


def chromium() -> str | None:
    """The path of the system's Chromium; None where there is none. Nothing is downloaded."""
    named = os.environ.get("DARKROOM_TEST_CHROMIUM")
    return named or next((path for name in CHROMIUM_NAMES if (path := shutil.which(name))), None)


@contextlib.contextmanager
def browsing(executable: str) -> Iterator[Browser]:
    """A headless browser. While it is open no event loop can be run in this thread."""
    expect.set_options(timeout=SEEN_MS_MAX)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class GatewayProcess:
    """`darkroom gateway` in a process of its own. Started again it takes the port that it had."""

    def __init__(self, environment: Mapping[str, str], folder: Path) -> None:
        self._environment = {**os.environ, **environment}
        self._log = folder / "gateway.log"
        self._log.touch()
        self.port = 0
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        """Its address, with a slash at the end."""
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start it and wait until it is ready."""
        written = self._log.stat().st_size
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "darkroom", "gateway", "--port", str(self.port)],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        wait_until(lambda: self._is_ready(written), READY_S_MAX, "the gateway to be ready")

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for one that does not end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
        self._process.kill()
        self._process.wait()

    def _is_ready(self, since: int) -> bool:
        text = self._log.read_bytes()[since:].decode(errors="replace")
        assert self._process.poll() is None, f"the gateway ended at its start:\n{text[-4000:]}"
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == "listening":
                    self.port = entry["port"]
        if not self.port:
            return False
        try:
            return urllib3.request("GET", f"{self.url}readyz", timeout=2.0, retries=False).status == 200
        except urllib3.exceptions.HTTPError:
            return False


class Site:
    """A gateway and the workers behind it, on topics of their own."""

    def __init__(self, stack_environment: Mapping[str, str], folder: Path, *worker_flags: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.fleet = Fleet(stack_environment, folder)
        with contextlib.ExitStack() as started:
            started.callback(self.fleet.stop)
            # The worker makes the topics; the gateway is ready once they are there.
            worker = self.fleet.start(*worker_flags)
            self.gateway = GatewayProcess(self.fleet.environment, folder)
            started.callback(self.gateway.stop)
            worker.wait_ready()
            self._stop = started.pop_all().close

    def stop(self) -> None:
        """All of it."""
        self._stop()


class Watch:
    """Notes what a page may never do (write errors, break the policy, call another host), and what it posted."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.problems: list[str] = []
        self.refusals_expected = False
        self.sent: list[Request] = []
        self._url = url
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._asked)
        page.route(url, self._under_policy)

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The JSON of every request that was posted."""
        return [request.post_data_json for request in self.sent]

    def _said(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        # Chromium writes every answer of 400 and above; some tests are about those.
        if message.text.startswith("Failed to load resource") and self.refusals_expected:
            return
        self.problems.append(f"console: {message.text}")

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((self._url, "data:", "blob:")):
            self.problems.append(f"another host: {request.url}")
        if request.method == "POST" and request.url.endswith("/v1/generations"):
            self.sent.append(request)

    def _under_policy(self, route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, headers={"content-security-policy": STRICT, **answer.headers})
