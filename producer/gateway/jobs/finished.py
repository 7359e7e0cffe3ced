"""Tells the quotas which jobs have ended, beside the loop that follows completions: a slow quota store delays none."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from darkroom.producer.gateway.principal import Quotas
from darkroom.producer.gateway.problems import Problem
from darkroom.schemas.events.completion import Completion

log = structlog.get_logger(__name__)

WAITING_MAX: Final = 10_000
"""Ends that wait to be told. Beyond it the oldest are dropped: every other replica tells them too."""


class Finished:
    """Every replica tells every end: it is told also when the replica that began the job is gone."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._waiting: deque[tuple[str, str]] = deque(maxlen=WAITING_MAX)
        self._some = asyncio.Event()

    def note(self, completion: Completion) -> None:
        """A job ended."""
        self._waiting.append((completion.tenant, completion.request_id))
        self._some.set()

    async def run(self) -> None:
        """Tell of ends, until cancelled."""
        while True:
            while self._waiting:
                tenant, request_id = self._waiting.popleft()
                try:
                    await self._quotas.end_job(tenant, request_id)
                except Problem as error:
                    log.warning("the end of a job was not counted", job=f"{tenant}/{request_id}", reason=error.detail)
            self._some.clear()
            await self._some.wait()
