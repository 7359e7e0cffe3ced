"""An API server in memory, as far as the kubelet uses one: nodes, pods, ConfigMaps, Secrets, tokens."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from typing import Any

from tests.autoscale.api import ApiError, Json

NAMESPACE = "pictures"


class FakeApi:
    """Implements `Api`. Objects are kept by path; a pod that is deleted stays until its kubelet deletes it again."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.cordoned: set[str] = set()
        """Names of nodes that take no further pods."""
        self.tokens: list[Json] = []
        """What was asked for in requests of tokens."""

    def call(self, method: str, path: str, body: Json | None = None, *, content: str = "application/json") -> Json:
        path, _, last = path.rpartition("/")
        if (method, last) == ("GET", "pods"):
            return {"items": [copy.deepcopy(one) for place, one in self.objects.items() if "/pods/" in place]}
        if (method, last) == ("POST", "nodes"):
            return {}
        if path.endswith("/nodes") and method == "GET":
            return {"spec": {"unschedulable": last in self.cordoned}}
        if last == "token":
            self.tokens.append(body or {})
            return {"status": {"token": f"token-{len(self.tokens)}"}}
        if last == "binding":
            assert body is not None
            self._at(path)["spec"]["nodeName"] = body["target"]["name"]
            return {}
        if last == "status" and method == "PATCH":
            if "/nodes/" not in path:
                self._at(path)["status"] = copy.deepcopy((body or {})["status"])
            return {}
        found = self._at(f"{path}/{last}")
        if method == "DELETE":
            assert (body or {}).get("preconditions") == {"uid": found["metadata"]["uid"]}
            del self.objects[f"{path}/{last}"]
        return copy.deepcopy(found)

    def put(self, kind: str, name: str, **sections: Any) -> None:
        self.objects[f"/api/v1/namespaces/{NAMESPACE}/{kind}/{name}"] = {"metadata": {"name": name}, **sections}

    def put_pod(self, name: str, container: Mapping[str, Any], **spec: Any) -> None:
        self.put("pods", name, spec={"containers": [{"name": "c", "image": "i", **container}], **spec})
        metadata = {"namespace": NAMESPACE, "uid": str(uuid.uuid4()), "labels": {"part": "worker"}}
        self.pod(name)["metadata"].update(metadata)

    def pod(self, name: str) -> Json:
        return self._at(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}")

    def has_pod(self, name: str) -> bool:
        return f"/api/v1/namespaces/{NAMESPACE}/pods/{name}" in self.objects

    def delete_pod(self, name: str, grace_s: int) -> None:
        """As a ReplicaSet's controller does: the pod is marked, and its kubelet does the rest."""
        self.pod(name)["metadata"] |= {"deletionTimestamp": "now", "deletionGracePeriodSeconds": grace_s}

    def _at(self, path: str) -> Json:
        if path not in self.objects:
            raise ApiError(404, f"no {path}")
        return self.objects[path]
