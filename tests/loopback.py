"""A small HTTP server on a free loopback port, for tests that say what a server answers."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class QuietHandler(BaseHTTPRequestHandler):
    """Keeps a connection open between requests, and logs nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def served(handler: type[BaseHTTPRequestHandler], identity: Path | None = None) -> Iterator[str]:
    """The server's address, while it runs; by TLS where `identity` is a PEM file of its key and certificate."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if identity is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(identity)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http{'' if identity is None else 's'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
