"""uvicorn, ended as this product's processes are: SIGTERM lets calls finish, and the exit code is 0."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """One server of one gateway."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, which raises them once more in the end, so that the process dies of them all the same."""
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self.end)
        yield

    def end(self) -> None:
        """Take no more connections, and end when the calls that are there have."""
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which would wait for event streams until its time is up: they end at once."""
        self._app.state.gateway.close()
        await super().shutdown(sockets)
