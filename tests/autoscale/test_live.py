"""Proves on a real API server what needs no KEDA: the chart is taken, and a worker's pod drains when it is deleted.

`make control-plane` builds it; `make test-autoscale` runs this, and the whole proof after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.autoscale import binaries
from tests.autoscale.api import ApiError, Manifests
from tests.autoscale.binaries import Binaries
from tests.autoscale.case import wait_until
from tests.autoscale.deployment import Deployment
from tests.autoscale.helm import CHART
from tests.autoscale.kubelet import Kubelet
from tests.autoscale.plane import Plane

if TYPE_CHECKING:
    from darkroom.consumer.stack import Stack

EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
PROMETHEUS_OPERATOR = "monitoring.coreos.com/"
"""Its kinds are not defined here; tests/helm holds those manifests against their schemas."""
CHANGES = {
    "autoscaling": {"mode": "none"},
    "worker": {"replicas": 1, "loadSeconds": 120},
}

pytestmark = [pytest.mark.stack, pytest.mark.proof]


@pytest.fixture(scope="module")
def programs() -> Binaries:
    return binaries.find()


@pytest.fixture(scope="module")
def plane(programs: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with Plane(programs, tmp_path_factory.mktemp("plane") / "plane") as running:
        running.start_api()
        running.start_controllers()
        running.define_keda()
        yield running


@pytest.fixture
def deployment(plane: Plane, programs: Binaries, stack: Stack, tmp_path: Path) -> Deployment:
    made = Deployment(plane, programs, stack.environment, tmp_path, "live")
    made.make_namespace()
    return made


def test_the_server_takes_every_manifest_and_no_field_that_it_does_not_know(
    plane: Plane, deployment: Deployment
) -> None:
    manifests = Manifests(plane.api, deployment.namespace)
    rendered = deployment.helm.template(*deployment.layers({}), hooks=True)
    assert {"Deployment", "ScaledObject", "Job", "CronJob", "Role"} <= {manifest["kind"] for manifest in rendered}
    for manifest in rendered:
        manifests.apply(manifest, dry_run=True)
    scaled = next(manifest for manifest in rendered if manifest["kind"] == "ScaledObject")
    scaled["spec"]["cooldownPeriods"] = 1
    with pytest.raises(ApiError, match="cooldownPeriods"):
        manifests.apply(scaled, dry_run=True)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_the_server_takes_every_example(plane: Plane, deployment: Deployment, example: Path) -> None:
    manifests = Manifests(plane.api, deployment.namespace)
    for manifest in deployment.helm.template(example, hooks=True):
        if not manifest["apiVersion"].startswith(PROMETHEUS_OPERATOR):
            manifests.apply(manifest, dry_run=True)


def test_a_release_runs_and_a_worker_that_is_scaled_away_drains(
    plane: Plane, deployment: Deployment, tmp_path: Path
) -> None:
    said: list[str] = []
    kubelet = Kubelet(plane.api, tmp_path / "pods", plane.address, said.append)
    kubelet.start()
    try:
        deployment.install(CHANGES)
        wait_until("the worker to be ready", lambda: deployment.workers() == (1, 1))
        assert [pod.last_exit for pod in kubelet.history if "init" in pod.name] == [0], said
        worker = next(pod for pod in kubelet.history if "-worker-" in pod.name)
        deployment.set_workers(0)
        wait_until("the worker to be gone", lambda: bool(kubelet.endings) and not kubelet.pods)
    finally:
        kubelet.stop()
    (ending,) = [one for one in kubelet.endings if one.pod == worker.name]
    assert (ending.exit_code, ending.killed) == (0, False), said
    assert '"event": "drained"' in worker.log.read_text()
    assert not worker.is_running
