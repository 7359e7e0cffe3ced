"""`/livez`, `/readyz` and `/metrics` on a thread of their own, so that they answer whatever the event loop does.

A probe or a metric that cannot be made is a 500 with the reason, and is logged. A server that ends by itself is started
again; were it not, Kubernetes would find nobody at the port, and restart the process.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from darkroom.producer.tasks import described

log = structlog.get_logger(__name__)

RESTART_S: Final = 1.0
"""The pause before the server is started again: below the period of a probe."""
_PATHS: Final = b'{"paths": ["/livez", "/readyz", "/metrics"]}'
_ALLOW: Final = MappingProxyType({"Allow": "GET, HEAD"})


class Health(NamedTuple):
    """An answer to a probe: whether all is well, and the sentences that say why not."""

    well: bool
    reasons: tuple[str, ...] = ()


class HealthServer:
    """A small HTTP server for probes and scrapes. Serves nothing else, and nothing that changes anything."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        live: Callable[[], Health],
        ready: Callable[[], Health],
        *,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        """Bind at once. Port 0 takes a free one. Raises `OSError` where the port is taken."""
        handler = type(
            "_BoundHandler", (_Handler,), {"registry": registry, "probes": {"/livez": live, "/readyz": ready}}
        )
        self._server = _Server((host, port), handler)
        self._on_restart = on_restart
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="darkroom-health", daemon=True)

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                self._server.serve_forever()
            except Exception:
                log.exception("the health server ended unexpectedly and is restarted", task="health")
                self._closing.wait(RESTART_S)
                self._on_restart()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: socket.socket | Any, client_address: Any) -> None:  # noqa: ARG002 - the base's own
        """Log a call that failed as one line; the base class prints a traceback, for a caller that hung up as well."""
        error = sys.exception()
        if isinstance(error, ConnectionError | TimeoutError):
            return
        log.error("a connection to the health server failed", client=client_address[0], error=repr(error))


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    probes: dict[str, Callable[[], Health]]
    timeout = 10

    def do_GET(self) -> None:
        """Answer a probe or a scrape."""
        path = self.path.partition("?")[0]
        try:
            answer = self._made(path)
        except Exception as error:
            log.exception("a probe cannot be answered", path=path)
            body = json.dumps({"well": False, "reasons": [f"It cannot be told: {described(error)}."]}).encode()
            answer = (HTTPStatus.INTERNAL_SERVER_ERROR, "application/json", body)
        self._answer(*answer)

    def _made(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self.registry)
        if probe := self.probes.get(path):
            health = probe()
            status = HTTPStatus.OK if health.well else HTTPStatus.SERVICE_UNAVAILABLE
            body = json.dumps({"well": health.well, "reasons": health.reasons}).encode()
            return status, "application/json", body
        return HTTPStatus.NOT_FOUND, "application/json", _PATHS

    def do_HEAD(self) -> None:
        """Answer with GET's status and headers (RFC 9110, 9.3.2); `_answer` leaves out the content."""
        self.do_GET()

    def __getattr__(self, name: str) -> Callable[[], None]:
        """Return what answers any other method: `http.server` looks for `do_` and the method's name."""
        if not name.startswith("do_"):
            raise AttributeError(name)
        return self._refuse_method

    def _refuse_method(self) -> None:
        self.close_connection = True  # a body may follow, which is not read
        if self.path.partition("?")[0] not in {"/metrics", *self.probes}:
            self._answer(HTTPStatus.NOT_FOUND, "application/json", _PATHS)
            return
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "application/json", b'{"methods": ["GET", "HEAD"]}', _ALLOW)

    def _answer(
        self, status: HTTPStatus, content_type: str, body: bytes, more: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds: they are not worth a line each."""
