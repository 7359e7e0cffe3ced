"""Callers of a gateway: each makes a job, and asks until it has ended, whatever becomes of Kafka meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import urllib3

from tests.chaos.traffic import SUCCEEDED, Sent

EVERY_S: Final = 2.0
AGAIN_S: Final = 0.5
WAIT_S: Final = 10
ANSWER_S_MAX: Final = 25.0
CALLERS_MAX: Final = 128
"""More than jobs are made while one lives."""
JOB_S_MAX: Final = 240.0
"""A job's whole life, beside brokers that are away in turn."""


class Callers:
    """Make jobs without pause; `wrong` has those that did not succeed."""

    def __init__(self, url: Callable[[str], str], sent: Sent) -> None:
        """`url` gives an address of the gateway's, or raises `LookupError` while it has none."""
        self._url = url
        self._sent = sent
        self._threads = ThreadPoolExecutor(CALLERS_MAX, "caller")
        self._jobs: set[asyncio.Task[None]] = set()
        self.made = 0
        self.answered = 0
        self.wrong: list[str] = []

    async def run(self) -> None:
        """Make a job every `EVERY_S` until cancelled."""
        for number in itertools.count():
            await asyncio.sleep(EVERY_S)
            job = asyncio.create_task(self._job(f"http-{number}"))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)

    async def finish(self) -> None:
        """Wait for the jobs that were made."""
        await asyncio.gather(*self._jobs)
        self._threads.shutdown()

    async def _job(self, request_id: str) -> None:
        self._sent.expected[request_id] = SUCCEEDED
        order = {"request_id": request_id, "prompt": f"figure {request_id}", "steps": 20}
        deadline = time.monotonic() + JOB_S_MAX
        last: Any = None
        while time.monotonic() < deadline:
            status, last = await self._asked("POST", "/v1/generations", order)
            if status == 202:
                self.made += 1
                break
            await asyncio.sleep(AGAIN_S)
        while time.monotonic() < deadline:
            status, last = await self._asked("GET", f"/v1/generations/{request_id}?wait={WAIT_S}")
            if status == 200 and last.get("status") == "succeeded":
                self.answered += 1
                return
            await asyncio.sleep(AGAIN_S)
        self.wrong.append(f"{request_id}: {status} {last}")

    async def _asked(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        # Threads of their own: callers that wait would leave none to those who ask whether processes are ready.
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, method, path, body)

    def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status and the answer; 0 where there is none."""
        try:
            answer = urllib3.request(method, self._url(path), json=body, timeout=ANSWER_S_MAX, retries=False)
            return answer.status, json.loads(answer.data)
        except (LookupError, ValueError, urllib3.exceptions.HTTPError) as error:
            return 0, repr(error)
