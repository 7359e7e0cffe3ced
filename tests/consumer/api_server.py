"""What a worker needs of Kubernetes' API server: patches of a pod over TLS, taken note of. And a service account."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.integration.certificates import Authority


class ApiServer:
    """Takes what the API server would: patches of one pod, over TLS."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder, "cluster")
        self.patches: list[tuple[str, str, str, dict[str, object]]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PATCH(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                kind = self.headers["Content-Type"]
                outer.patches.append((self.path, self.headers["Authorization"], kind, body))
                self.send_response(outer.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(authority.identity("api"))
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.credentials = folder / "account"
        self.credentials.mkdir()
        (self.credentials / "ca.crt").write_bytes(authority.certificate.read_bytes())
        (self.credentials / "token").write_text("first-token\n")
        (self.credentials / "namespace").write_text("pictures")

    @property
    def environ(self) -> dict[str, str]:
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.server.server_address[1]),
        }


@contextlib.contextmanager
def api_server_in(folder: Path) -> Iterator[ApiServer]:
    """The server, while it runs."""
    one = ApiServer(folder)
    thread = threading.Thread(target=one.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield one
    finally:
        one.server.shutdown()
        one.server.server_close()
        thread.join()
