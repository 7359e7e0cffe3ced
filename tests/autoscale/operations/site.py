"""A release as a platform team has it: two nodes, a namespace with its Secrets, the chart, workers and gateways."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import urllib3
import yaml

from darkroom.consumer.audit.audit import AuditReport, audit
from darkroom.consumer.stack import Stack
from darkroom.producer.store.s3_objects import MinioObjects
from darkroom.schemas.settings import Settings
from tests.autoscale.api import ApiError, Json
from tests.autoscale.binaries import Binaries, Clients
from tests.autoscale.case import wait_until
from tests.autoscale.deployment import VALUES, Deployment
from tests.autoscale.kubelet import NODE, Kubelet
from tests.autoscale.operations.desk import Desk
from tests.autoscale.operations.runbook import PREAMBLE, read
from tests.autoscale.operations.store_keys import StoreKeys
from tests.autoscale.plane import Plane, Report
from tests.autoscale.pod import Ending, Pod

RELEASE: Final = "darkroom"
NAMESPACE: Final = "pictures"
NODES: Final = (NODE, "another")
WORKERS: Final = 2
POLICY: Final = """version = "1"

[[block]]
category = "forbidden"
words = ["unspeakable"]
"""
CHANGES: Final[Json] = {
    # Simulated until an operation wants a model; obeys markers, so that a request can kill its worker.
    "settings": {"simulated": {"step_ms": 50, "obey_markers": True}},
    "secrets": {"access": {"name": "darkroom-keys", "sessionSecret": "session-secret"}},
    "policy": {"configMap": "darkroom-policy"},
    "gateway": {"enabled": True, "replicas": 2, "preStopSeconds": 1},
    # Two workers, come what may: nothing here is about lag.
    "autoscaling": {
        "minReplicas": WORKERS,
        "maxReplicas": 4,
        "keda": {"cooldownSeconds": 120, "kafka": {"lagThreshold": 1000}},
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 120}},
    },
    "worker": {"loadSeconds": 120},
}
COMES_S_MAX: Final = 180.0


class NotSo(Exception):  # noqa: N818
    """An operation did not do what it is for: what was seen."""


def expect(holds: bool, otherwise: str) -> None:
    """Raises `NotSo`."""
    if not holds:
        raise NotSo(otherwise)


class Site:
    """One release on one plane. `installed` makes it."""

    def __init__(self, deployment: Deployment, nodes: Mapping[str, Kubelet], desk: Desk, store_keys: StoreKeys) -> None:
        self.deployment = deployment
        self.nodes = nodes
        self.desk = desk
        self.store_keys = store_keys
        self.store_key = store_keys.make("first")
        self.blocks = read()
        self.api_key = ""
        self._http = urllib3.PoolManager(retries=False, timeout=10.0)

    @property
    def settings(self) -> Settings:
        """Of clients of the release."""
        return self.deployment.settings

    def install(self) -> None:
        """The namespace with what whoever installs makes, and the chart."""
        desk, folder = self.desk, self.desk.folder
        s3 = self.settings.s3
        environment = self.deployment.environment
        desk.begin(
            self.blocks[PREAMBLE][0],
            {
                "ENDPOINT": str(s3.endpoint),
                "ACCESS_KEY": environment["DARKROOM_S3__ACCESS_KEY"],
                "SECRET_KEY": environment["DARKROOM_S3__SECRET_KEY"],
            },
        )
        self.write_values({})
        (folder / "session-secret").write_text(secrets.token_urlsafe(40))
        (folder / "policy.toml").write_text(POLICY)
        self.api_key = desk.run("darkroom keys new --tenant studio --file keys.jsonl").splitlines()[0]
        desk.run(
            "kubectl create namespace $NS\n"
            f"kubectl -n $NS create secret generic darkroom-s3 --from-literal=access-key={self.store_key.access}"
            f" --from-literal=secret-key={self.store_key.secret}\n"
            "kubectl -n $NS create secret generic darkroom-keys --from-file=keys.jsonl --from-file=session-secret\n"
            "kubectl -n $NS create configmap darkroom-policy --from-file=policy.toml\n"
            "helm install $R helm/darkroom -n $NS -f my-values.yaml\n"
        )
        self.await_fleet()

    def write_values(self, changes: Mapping[str, Any]) -> None:
        """`my-values.yaml`: the proof's values, what this site changes, and changes over both."""
        merged: Json = {}
        for layer in (yaml.safe_load(VALUES.read_text()), self.deployment.values, CHANGES, changes):
            merged = _over(merged, layer)
        (self.desk.folder / "my-values.yaml").write_text(yaml.safe_dump(merged))

    def upgrade(self) -> None:
        """To `my-values.yaml` as it is, rolled out."""
        self.desk.run(
            "helm upgrade $R helm/darkroom -n $NS -f my-values.yaml\n"
            "kubectl -n $NS rollout status deployment/$R-worker\n"
            "kubectl -n $NS rollout status deployment/$R-gateway\n"
        )
        self.await_fleet()

    def await_fleet(self) -> None:
        """As many workers as there are to be, all ready, and a gateway. Raises `TooLong`."""
        wait_until("the workers", lambda: self.ready_or_none() == (WORKERS, WORKERS), COMES_S_MAX)
        wait_until("a gateway", lambda: bool(self.gateways()), COMES_S_MAX)

    def ready(self) -> int:
        """Ready workers. Raises `ApiError`."""
        return self.deployment.workers()[1]

    def ready_or_none(self) -> tuple[int, int]:
        """Wanted and ready workers; none where there is no Deployment."""
        try:
            return self.deployment.workers()
        except ApiError as error:
            if error.status != 404:
                raise
            return 0, 0

    def pods(self, part: str) -> list[Pod]:
        """Those of a part that run, on all nodes."""
        return [one for one in self._here() if one.is_running and f"-{part}-" in one.name]

    def _here(self) -> list[Pod]:
        return [pod for node in self.nodes.values() for pod in tuple(node.pods.values())]

    def history(self) -> list[Pod]:
        """Every pod that ever was."""
        return [pod for node in self.nodes.values() for pod in tuple(node.history)]

    def endings(self) -> list[Ending]:
        """How pods went that were asked to go."""
        return [ending for node in self.nodes.values() for ending in tuple(node.endings)]

    def gateways(self) -> list[Pod]:
        """Gateways that are ready."""
        return [pod for pod in self.pods("gateway") if pod.is_ready]

    def call(self, key: str, method: str, path: str, body: Json | None = None, *, gateway: Pod) -> tuple[int, Json]:
        """A call at one gateway; its status, and its JSON where it is any."""
        answer = self._http.request(
            method,
            f"http://{gateway.address}:8080{path}",
            body=None if body is None else json.dumps(body),
            headers={"X-API-Key": key, "Content-Type": "application/json"},
        )
        is_json = "json" in answer.headers.get("Content-Type", "")
        return answer.status, json.loads(answer.data) if is_json else {}

    async def audited(self) -> AuditReport:
        """By the proof's own hand."""
        async with MinioObjects(self.settings.s3) as objects:
            return await audit(self.settings, objects)


@contextlib.contextmanager
def installed(programs: Binaries, clients: Clients, folder: Path, say: Report) -> Iterator[Site]:
    """Stack, control plane, nodes and release; all of it is ended in the end."""
    stack = Stack(folder / "stack")
    nodes: dict[str, Kubelet] = {}
    try:
        state = stack.up(say)
        with Plane(programs, folder / "plane", say) as plane:
            plane.start_api()
            plane.start_controllers()
            plane.start_keda()
            deployment = Deployment(plane, programs, state.environment, folder, RELEASE, NAMESPACE)
            pods = folder / "pods"
            desk = Desk(folder / "desk", programs, clients, kubeconfig=plane.kubeconfig, pods=pods, say=say)
            try:
                for number, node in enumerate(NODES):
                    nodes[node] = Kubelet(plane.api, pods / node, plane.address, say, node=node, number=number)
                    nodes[node].start()
                site = Site(deployment, nodes, desk, StoreKeys(state.processes["s3"].ports))
                site.install()
                yield site
            finally:
                for kubelet in nodes.values():
                    kubelet.stop()
    finally:
        stack.down()


def _over(below: Json, above: Mapping[str, Any]) -> Json:
    """As Helm merges values: sections key by key, everything else whole."""
    merged = dict(below)
    for name, value in above.items():
        there = merged.get(name)
        merged[name] = _over(there, value) if isinstance(there, dict) and isinstance(value, Mapping) else value
    return merged
