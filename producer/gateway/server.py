"""uvicorn with this product's way to shut down: SIGTERM lets calls finish, and the exit code is 0."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from darkroom.producer.tasks import run


class Server(uvicorn.Server):
    """The server of one gateway."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        # uvicorn's own raises each captured signal once more at the end, so that the process dies of it.
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self.end)
        yield

    def end(self) -> None:
        """Accept no more connections, and exit when the calls in progress have finished."""
        self.should_exit = True

    @override
    def run(self, sockets: list[socket.socket] | None = None) -> None:
        run(self.serve(sockets=sockets))

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn would wait for event streams until its time is up: they end at once.
        self._app.state.gateway.close()
        await super().shutdown(sockets)
