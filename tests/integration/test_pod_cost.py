"""Proves that a whole worker lowers its pod's deletion cost when it has nothing to do, and takes that back for work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from darkroom.consumer.worker.pod_cost import ANNOTATION
from darkroom.inference.engine import LaneEngine
from darkroom.inference.simulated.device import SimulatedDevice
from darkroom.producer.kafka.topics import ensure_topics
from tests.consumer.api_server import api_server_in
from tests.integration.fleet import until
from tests.integration.in_process import Producer, running_worker
from tests.producer.deployments import deployment_on

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

pytestmark = pytest.mark.stack

STEP_MS = 150.0
"""Twenty steps are three seconds of work: longer than the worker's looks are apart."""


async def test_an_idle_worker_says_so_and_a_busy_one_takes_it_back(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api_server_in(tmp_path) as api_server:
        for name, value in api_server.environ.items():
            monkeypatch.setenv(name, value)
        settings = deployment_on(stack.environment)(
            topics__requests_partitions=1,
            worker__pod_name="worker-0",
            worker__pod_credentials_dir=api_server.credentials,
        )
        await ensure_topics(settings)

        def costs() -> list[str]:
            return [patch[3]["metadata"]["annotations"][ANNOTATION] for patch in api_server.patches]  # type: ignore[index]

        engine = LaneEngine(SimulatedDevice(STEP_MS), rows_max=1)
        async with Producer(settings) as producer, running_worker(settings, engine):
            await until(lambda: costs() == ["-100"], 60, "an idle worker to lower its cost")
            place = await producer.put(json.dumps({"request_id": "r", "prompt": "p", "steps": 20}).encode())
            await until(lambda: costs() == ["-100", "0"], 60, "a busy worker to take it back")
            assert place in await producer.answers({place})
        assert {patch[0] for patch in api_server.patches} == {"/api/v1/namespaces/pictures/pods/worker-0"}
