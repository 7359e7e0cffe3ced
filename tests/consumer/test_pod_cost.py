"""Proves that an idle worker lowers its pod's deletion cost, that work takes that back, and that no failure matters."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from consumer import pod_cost
from consumer.pod_cost import ANNOTATION, BUSY_COST, IDLE_COST, NoCluster, PodApi, PodCost
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


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[ApiServer]:
    one = ApiServer(tmp_path)
    thread = threading.Thread(target=one.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield one
    one.server.shutdown()
    one.server.server_close()
    thread.join()


def test_the_annotation_is_patched_with_the_token_of_the_moment(api_server: ApiServer) -> None:
    api = PodApi("worker-1", api_server.credentials, api_server.environ)
    api.set_cost(IDLE_COST)
    (api_server.credentials / "token").write_text("second-token")
    api.set_cost(BUSY_COST)
    path = "/api/v1/namespaces/pictures/pods/worker-1"
    kind = "application/merge-patch+json"
    assert api_server.patches == [
        (path, "Bearer first-token", kind, {"metadata": {"annotations": {ANNOTATION: "-100"}}}),
        (path, "Bearer second-token", kind, {"metadata": {"annotations": {ANNOTATION: "0"}}}),
    ]


def test_a_role_that_is_missing_is_said(api_server: ApiServer) -> None:
    api_server.status = 403
    with pytest.raises(PermissionError, match="may not patch pods"):
        PodApi("worker-1", api_server.credentials, api_server.environ).set_cost(IDLE_COST)


def test_a_process_that_is_in_no_pod_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(NoCluster, match="KUBERNETES_SERVICE_HOST"):
        PodApi("worker-1", tmp_path, {})
    with pytest.raises(NoCluster, match="service account"):
        PodApi("worker-1", tmp_path, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})


async def test_idle_for_a_while_lowers_it_once_and_work_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECK_S", "IDLE_S", "RETRY_S"):
        monkeypatch.setattr(pod_cost, name, 0.01)
    written: list[int] = []
    work, failures = [True], [OSError("the API server is away")]

    def write(cost: int) -> None:
        if failures:
            raise failures.pop()
        written.append(cost)

    async def until(costs: list[int]) -> None:
        async with asyncio.timeout(10):
            while written != costs:
                await asyncio.sleep(0.005)

    following = asyncio.create_task(PodCost(write, lambda: work[0]).run())
    try:
        await asyncio.sleep(0.05)
        assert written == [], "a busy worker has nothing to say"
        work[0] = False
        await until([IDLE_COST])  # the first try failed
        work[0] = True
        await until([IDLE_COST, BUSY_COST])
    finally:
        following.cancel()
