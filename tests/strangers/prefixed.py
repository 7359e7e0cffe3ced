"""A reverse proxy that gives a server a path of its own, as an ingress or `location /studio/ { proxy_pass .../; }`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import urllib3

from tests.loopback import QuietHandler, served

PREFIX = "/studio"
_HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "keep-alive"})


@contextlib.contextmanager
def behind_a_prefix(server: str) -> Iterator[str]:
    """The address, with the prefix and no slash at its end, at which the proxy passes on to a server's root."""
    pool = urllib3.PoolManager()

    class Handler(QuietHandler):
        def __getattr__(self, name: str) -> Callable[[], None]:
            if not name.startswith("do_"):
                raise AttributeError(name)
            return self._pass_on

        def _pass_on(self) -> None:
            self.close_connection = True
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404, "another site's path")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            headers = {name: text for name, text in self.headers.items() if name.lower() not in _HOP_BY_HOP}
            answer = pool.request(
                self.command,
                server + self.path.removeprefix(PREFIX),
                body=body or None,
                headers=headers,
                preload_content=False,
                decode_content=False,  # a proxy passes on what is compressed as it is
                redirect=False,
            )
            self.send_response(answer.status)
            for name, text in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    self.send_header(name, text)
            self.send_header("Connection", "close")
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                while chunk := answer.read1():
                    self.wfile.write(chunk)
                    self.wfile.flush()
            answer.release_conn()

    with served(Handler) as address:
        yield address + PREFIX
