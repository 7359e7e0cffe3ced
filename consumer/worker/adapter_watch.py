"""Looks for adapters that appear, change or disappear while the worker runs."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from darkroom.inference.contract import Engine
from darkroom.inference.types import ModelError
from darkroom.producer.daemon_threads import DaemonThreads
from darkroom.schemas.settings import ModelSettings
from darkroom.schemas.settings.model_source import StorePrefix

log = structlog.get_logger(__name__)

FOLDER_S: Final = 5.0
"""Between two looks at a folder. A change counts at the second look that sees it: after ten seconds at the latest."""
PREFIX_S: Final = 15.0
"""Between two listings of a prefix: a request of the kind that stores charge for, under 6,000 a day."""


class AdapterWatch:
    """Keeps the engine's adapters as the folder or prefix has them."""

    def __init__(self, engine: Engine, model: ModelSettings) -> None:
        """Make a watch that is not started. `model` names the folder or prefix."""
        self._engine = engine
        self._pause_s = PREFIX_S if isinstance(model.adapters_path, StorePrefix) else FOLDER_S
        # A file may take minutes to fetch: the end of the process does not wait for this thread.
        self._thread = DaemonThreads(1, "darkroom-adapters")
        self.loaded = asyncio.Event()
        """Set once the engine has loaded its model."""

    async def run(self) -> None:
        """Look again and again. A folder or store that cannot be read is told once; all adapters then stay."""
        await self.loaded.wait()
        told: str | None = None
        while True:
            await asyncio.sleep(self._pause_s)
            try:
                await self._thread.run(self._engine.refresh_adapters)
            except ModelError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("adapters_not_listed", why=told)
            else:
                if told is not None:
                    told = None
                    log.info("adapters_listed_again")
