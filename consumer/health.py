"""`/livez`, `/readyz` and `/metrics` on a thread of their own, so that they answer whatever the event loop does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST


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
    ) -> None:
        """Bind at once. Port 0 takes a free one. Raises `OSError` where the port is taken."""
        handler = type(
            "_BoundHandler", (_Handler,), {"registry": registry, "probes": {"/livez": live, "/readyz": ready}}
        )
        self._server = ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="darkroom-health", daemon=True)

    @property
    def port(self) -> int:
        """The port in use."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    probes: dict[str, Callable[[], Health]]
    timeout = 10

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self.registry))
        elif probe := self.probes.get(path):
            health = probe()
            status = HTTPStatus.OK if health.well else HTTPStatus.SERVICE_UNAVAILABLE
            body = json.dumps({"well": health.well, "reasons": health.reasons}).encode()
            self._answer(status, "application/json", body)
        else:
            self._answer(HTTPStatus.NOT_FOUND, "application/json", b'{"paths": ["/livez", "/readyz", "/metrics"]}')

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds: they are not worth a line each."""
