"""Proves that an idle worker lowers its pod's deletion cost, that work takes that back, and that no failure matters."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from darkroom.consumer.worker.pod_cost import ANNOTATION, BUSY_COST, IDLE_COST, NoCluster, PodApi, PodCost
from tests.consumer.api_server import ApiServer, api_server_in


@pytest.fixture
def api_server(tmp_path: Path) -> Iterator[ApiServer]:
    with api_server_in(tmp_path) as one:
        yield one


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


async def test_idle_for_a_while_lowers_it_once_and_work_takes_it_back() -> None:
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

    cost = PodCost(write, lambda: work[0], idle_s=0.01, check_s=0.01, retry_s=0.01)
    following = asyncio.create_task(cost.run())
    try:
        await asyncio.sleep(0.05)
        assert written == [], "a busy worker has nothing to say"
        work[0] = False
        await until([IDLE_COST])  # the first try failed
        work[0] = True
        await until([IDLE_COST, BUSY_COST])
    finally:
        following.cancel()
