"""A Maven repository of a few tiny artifacts on a loopback port, which counts what it is asked for."""

from __future__ import annotations

import base64
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from darkroom.consumer.stack.jars import Jar

POM = """<project><modelVersion>4.0.0</modelVersion>
<groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>
<dependencies>{dependencies}</dependencies></project>"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


def content(coordinates: str) -> bytes:
    """What an artifact's jar holds here."""
    return f"the jar of {coordinates}\n".encode() * 1_000


def jar(coordinates: str) -> Jar:
    """An artifact as a list names it."""
    return Jar(coordinates, base64.b64encode(hashlib.sha256(content(coordinates)).digest()).decode())


class FakeMaven:
    """Serves the given artifacts, each with what it depends on."""

    def __init__(self, artifacts: Mapping[str, tuple[str, ...]]) -> None:
        self.asked: Counter[str] = Counter()
        """How often each jar was asked for."""
        self.failing: Counter[str] = Counter()
        """How many more times a jar is answered with 503, by file name."""
        self.broken: set[str] = set()
        """Jars that come with other bytes, by file name."""
        self.pause_s = 0.0
        """How long the server waits before each chunk of a jar."""
        self.url = ""
        self._files: dict[str, bytes] = {}
        for coordinates, needed in artifacts.items():
            group, artifact, version = coordinates.split(":")
            folder = f"/{group.replace('.', '/')}/{artifact}/{version}/{artifact}-{version}"
            dependencies = "".join(DEPENDENCY.format(*each.split(":")) for each in needed)
            pom = POM.format(group=group, artifact=artifact, version=version, dependencies=dependencies)
            self._files[f"{folder}.pom"] = pom.encode()
            self._files[f"{folder}.jar"] = content(coordinates)

    @contextmanager
    def serving(self) -> Iterator[FakeMaven]:
        """On a port of its own until the end of the block."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                found = fake._files.get(self.path)
                if name.endswith(".jar"):
                    fake.asked[name] += 1
                if found is None or fake.failing[name] > 0:
                    fake.failing[name] -= 1
                    self.send_error(404 if found is None else 503)
                    return
                body = found[::-1] if name in fake.broken else found
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for start in range(0, len(body), 4_096):
                    time.sleep(fake.pause_s)
                    self.wfile.write(body[start : start + 4_096])

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}/maven2"
        server.RequestHandlerClass = Handler
        self._files = {f"/maven2{path}": body for path, body in self._files.items()}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
