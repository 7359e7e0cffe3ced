"""One deployment of Darkroom on the plane: the chart's release, its topics and group, its objects in the API."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from darkroom.schemas.settings import Settings, load_settings
from tests.autoscale.api import MERGE, Api, ApiError, Json, Manifests
from tests.autoscale.binaries import Binaries
from tests.autoscale.helm import Helm
from tests.autoscale.plane import Plane

VALUES: Final = Path(__file__).with_name("values.yaml")
SECRET: Final = "darkroom-s3"


class Deployment:
    """A release of the chart in a namespace of its own, with topics and a group of its own on the embedded stack."""

    def __init__(
        self,
        plane: Plane,
        binaries: Binaries,
        stack: Mapping[str, str],
        folder: Path,
        release: str,
        namespace: str | None = None,
    ) -> None:
        """`stack` is the environment that reaches Kafka and S3. The namespace is a new one unless given."""
        serial = uuid.uuid4().hex[:6]
        self.api: Api = plane.api
        self.namespace = namespace or f"pictures-{serial}"
        self.helm = Helm(binaries.helm, plane.kubeconfig, folder, release, self.namespace)
        self.environment = {
            **stack,
            "DARKROOM_TOPICS__PREFIX": f"{release}-{serial}.",
            "DARKROOM_KAFKA__GROUP_ID": f"{release}-{serial}",
        }
        self.fullname = release if "darkroom" in release else f"{release}-darkroom"
        """What the names of its objects begin with."""
        self._worker = f"{self.fullname}-worker"

    @property
    def settings(self) -> Settings:
        """As its workers have them, as far as clients are concerned."""
        return load_settings(environ=self.environment)

    @property
    def values(self) -> Json:
        """What the run adds to the values file."""
        settings = self.settings
        return {
            "settings": {
                "kafka": {
                    "bootstrap_servers": settings.kafka.bootstrap_servers,
                    "group_id": settings.kafka.group_id,
                },
                "topics": {"prefix": settings.topics.prefix},
                "s3": {"endpoint": settings.s3.endpoint, "bucket": settings.s3.bucket},
            },
            "secrets": {"s3": {"name": SECRET}},
        }

    def install(self, changes: Mapping[str, Any] | None = None) -> str:
        """Install or upgrade, with changes over the values file. Raises `HelmRefused`, `ApiError`."""
        return self.helm.install(*self.layers(changes or {}))

    def layers(self, changes: Mapping[str, Any]) -> tuple[Path | Mapping[str, Any], ...]:
        """The values file, what the run adds, and changes over both."""
        return VALUES, self.values, changes

    def make_namespace(self) -> None:
        """The namespace, and the Secret with the store's keys that whoever installs makes. Raises `ApiError`."""
        manifests = Manifests(self.api, self.namespace)
        manifests.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        keys = {
            "access-key": self.environment["DARKROOM_S3__ACCESS_KEY"],
            "secret-key": self.environment["DARKROOM_S3__SECRET_KEY"],
        }
        data = {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}
        manifests.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "data": data})

    def workers(self) -> tuple[int, int]:
        """The replicas that the Deployment is to have, and those that are ready. Raises `ApiError`."""
        found = self.api.call("GET", self._path("apps/v1", "deployments"))
        return int(found["spec"]["replicas"]), int(found.get("status", {}).get("readyReplicas", 0))

    def set_workers(self, replicas: int) -> None:
        """As `kubectl scale` does, where nothing else scales. Raises `ApiError`."""
        path = f"{self._path('apps/v1', 'deployments')}/scale"
        self.api.call("PATCH", path, {"spec": {"replicas": replicas}}, content=MERGE)

    def is_active(self) -> bool:
        """Whether KEDA sees work. Raises `ApiError`."""
        return self._holds("Active")

    def is_watched(self) -> bool:
        """Whether KEDA has taken the ScaledObject over. Raises `ApiError`."""
        return self._holds("Ready")

    def deletion_cost(self, pod: str) -> int:
        """What the pod says of itself; 0 where it is silent or gone. Raises `ApiError`."""
        try:
            found = self.api.call("GET", f"/api/v1/namespaces/{self.namespace}/pods/{pod}")
        except ApiError as error:
            if error.status == 404:
                return 0
            raise
        annotations = found["metadata"].get("annotations", {})
        return int(annotations.get("controller.kubernetes.io/pod-deletion-cost", "0"))

    def _holds(self, condition: str) -> bool:
        found = self.api.call("GET", self._path("keda.sh/v1alpha1", "scaledobjects"))
        states = found.get("status", {}).get("conditions", [])
        return any(one["type"] == condition and one["status"] == "True" for one in states)

    def _path(self, version: str, plural: str) -> str:
        return f"/apis/{version}/namespaces/{self.namespace}/{plural}/{self._worker}"
