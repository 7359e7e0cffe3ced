"""An S3 server of one object that breaks off: to see a transfer go on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import Any

from darkroom.schemas.settings import S3Settings
from tests.loopback import QuietHandler, served


class BreakingServer:
    """Sends at most `bytes_at_once` of an object for each request, and promises all of it."""

    def __init__(self, content: bytes, *, bytes_at_once: int, etag: str | None = None) -> None:
        self.content = content
        self.bytes_at_once = bytes_at_once
        self.etag = etag or hashlib.md5(content, usedforsecurity=False).hexdigest()
        self.offsets: list[int] = []
        """Where each request for the object's bytes began."""
        self.takes_ranges = True
        self.headers: dict[str, str] = {}
        """Further ones of each answer."""
        self.url = ""

    def settings(self) -> S3Settings:
        return S3Settings.model_validate({"endpoint": self.url, "access_key": "k", "secret_key": "s", "attempts": 2})

    def answer(self, request: Any) -> None:
        if not request.path.startswith("/models/xl.safetensors"):
            self._send(request, 404, 0, b"")
            return
        whole = len(self.content)
        if request.command == "HEAD":
            self._send(request, 200, whole, b"")
            return
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range") or "")
        offset = int(found[1]) if found and self.takes_ranges else 0
        self.offsets.append(offset)
        if request.headers.get("If-Match") != f'"{self.etag}"':
            body = b"<Error><Code>PreconditionFailed</Code><Message>changed</Message></Error>"
            self._send(request, 412, len(body), body)
            return
        rest = self.content[offset:]
        self._send(request, 206 if offset else 200, len(rest), rest[: self.bytes_at_once])

    def _send(self, request: Any, status: int, promised: int, body: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(promised))
        request.send_header("Content-Type", "application/xml")
        request.send_header("ETag", f'"{self.etag}"')
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        request.end_headers()
        with contextlib.suppress(OSError):
            request.wfile.write(body)
        request.close_connection = True


@contextlib.contextmanager
def breaking(content: bytes, **how: Any) -> Iterator[BreakingServer]:
    """The server on a free port."""
    script = BreakingServer(content, **how)

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802 - the base class looks for this name
            script.answer(self)

        do_HEAD = do_GET  # noqa: N815

    with served(Handler) as script.url:
        yield script
