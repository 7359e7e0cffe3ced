"""A node whose pods are processes of this machine: scheduler and kubelet in one, for a node that is always ready.

It binds every pod to its node unless that is cordoned, runs it, reports its status, writes changed Secrets and
ConfigMaps into its volumes, and on deletion sends SIGTERM and keeps to the grace period. Pods get addresses of
127.9.0.0/16, which Linux has without asking; those of a second node 127.10.0.0/16. Of several nodes the quickest
gets a pod.

Not looked at, because a process has none of it: images, resource requests (GPUs among them: the node offers as many as
are asked for), node selectors, affinity, tolerations, security contexts.
"""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from darkroom.consumer.stack.ports import LOOPBACK
from tests.autoscale.api import MERGE, Api, ApiError, Json
from tests.autoscale.pod import UNSTARTABLE, Ending, Image, Pod
from tests.autoscale.pod_spec import Kind, Lookup, Spec, Unsupported

NODE: Final = "this-machine"
LOOK_S: Final = 0.2
ENTRYPOINT: Final = ("darkroom",)
"""Of the images that the chart names: this checkout's own, found on the PATH that pods get."""
PROBES_AT_ONCE: Final = 8
REFRESH_S: Final = 1.0
"""How often mounted Secrets and ConfigMaps are looked at; a real kubelet takes up to a minute or two."""
_CAPACITY: Final = {"cpu": "1024", "memory": "4096Gi", "pods": "1000", "nvidia.com/gpu": "1000"}
_ADDRESSES: Final = 254

Say = Callable[[str], None]


class Kubelet:
    """Runs on a thread between `start` and `stop`. All public data may be read from other threads."""

    def __init__(
        self,
        api: Api,
        folder: Path,
        api_address: tuple[str, int],
        say: Say = lambda _line: None,
        *,
        node: str = NODE,
        number: int = 0,
    ) -> None:
        """`folder` is where pods live, each in one of its own; `api_address` is what pods are told of the server.

        Nodes on one machine have names and numbers of their own: the addresses of their pods follow from the number.
        """
        self.node = node
        self.pods: dict[str, Pod] = {}
        """By uid: those that are on this node now."""
        self.history: list[Pod] = []
        """Every pod that ever was here, in order."""
        self.endings: list[Ending] = []
        self._api = api
        self._folder = folder
        self._network = f"127.{9 + number}"
        self._refresh_at = 0.0
        self._say = say
        self._said: dict[str, Json] = {}
        self._complaint = ""
        self._stopping = threading.Event()
        self._probing = ThreadPoolExecutor(
            PROBES_AT_ONCE, "probe"
        )  # one that hangs must not hold up the others' SIGTERM
        self._thread = threading.Thread(target=self._run, name="kubelet", daemon=True)
        host, port = api_address
        self._base = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "LANG": "C.UTF-8",
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": str(port),
        }

    def start(self) -> None:
        """Make the node and begin. Raises `ApiError`."""
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}}
        self._api.call("POST", "/api/v1/nodes", node)
        ready = {"type": "Ready", "status": "True", "reason": "Process", "lastTransitionTime": _stamp(time.time())}
        status = {"capacity": _CAPACITY, "allocatable": _CAPACITY, "conditions": [ready]}
        self._api.call("PATCH", f"{self._node_path}/status", {"status": status}, content=MERGE)
        self._say(
            "pods are processes here: images, resource requests (GPUs too), affinity and security are not looked at"
        )
        self._thread.start()

    def stop(self) -> None:
        """End the loop, and every process that is left."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        for pod in self.pods.values():
            pod.kill()
        self._probing.shutdown(cancel_futures=True)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_S):
            try:
                self.look(time.monotonic())
            except ApiError as error:
                if (line := f"kubelet: {error}") != self._complaint:  # five times a second is enough once
                    self._say(line)
                self._complaint = line
            else:
                self._complaint = ""

    def look(self, now: float) -> None:
        """One look at all pods. Raises `ApiError` where the server cannot be asked."""
        there: set[str] = set()
        manifests = self._api.call("GET", "/api/v1/pods")["items"]
        unbound = [one for one in manifests if not one["spec"].get("nodeName") and not _is_going(one)]
        if unbound and not self._api.call("GET", self._node_path)["spec"].get("unschedulable"):
            for manifest in unbound:
                self._bind(manifest)
        if refreshing := now >= self._refresh_at:
            self._refresh_at = now + REFRESH_S
        for manifest in manifests:
            if manifest["spec"].get("nodeName") == self.node:
                there.add(manifest["metadata"]["uid"])
                self._settle(manifest, now, going=_is_going(manifest))
                if refreshing and (pod := self.pods.get(manifest["metadata"]["uid"])):
                    pod.refresh(self._lookup_of(manifest))
        for uid in self.pods.keys() - there:  # deleted by force
            self.pods.pop(uid).kill()
            self._said.pop(uid, None)

    def _bind(self, manifest: Spec) -> None:
        metadata = manifest["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": metadata["name"]},
            "target": {"kind": "Node", "name": self.node},
        }
        self._tolerant("POST", f"{_path(manifest)}/binding", binding)

    def _settle(self, manifest: Spec, now: float, *, going: bool) -> None:
        uid = manifest["metadata"]["uid"]
        pod = self.pods.get(uid)
        if pod is None:
            if going or manifest.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                if going:
                    self._forget(manifest)
                return
            pod = self._new(manifest)
            if pod is None:
                return
        if going:
            pod.manifest = manifest  # has the grace period now
            ending = pod.stop(now)
            if ending is not None:
                self.endings.append(ending)
                self._say(_told(ending))
                self._report(pod)
                self.pods.pop(uid)
                self._forget(manifest)
            return
        was = pod.is_running
        pod.advance(now, self._lookup_of(manifest), self._token_for(manifest))
        if pod.is_running and not was:
            self._say(f"{pod.name} started")
        self._report(pod)

    def _new(self, manifest: Spec) -> Pod | None:
        number = len(self.history)
        address = f"{self._network}.{number // _ADDRESSES}.{number % _ADDRESSES + 1}"
        metadata = manifest["metadata"]
        try:
            folder = self._folder / f"{metadata['name']}-{metadata['uid'][:8]}"
            pod = Pod(manifest, folder, address, Image(ENTRYPOINT, self._base), self._probing)
        except Unsupported as error:
            self._patch(manifest, {"phase": "Failed", "reason": "Unsupported", "message": str(error)})
            self._say(f"{metadata['name']}: {error}")
            return None
        self.pods[metadata["uid"]] = pod
        self.history.append(pod)
        return pod

    def _report(self, pod: Pod) -> None:
        status = status_of(pod)
        uid = pod.manifest["metadata"]["uid"]
        if self._said.get(uid) != status:
            if pod.problem:
                self._say(f"{pod.name} is not started: {pod.problem}")
            self._patch(pod.manifest, status)
            self._said[uid] = status

    def _patch(self, manifest: Spec, status: Json) -> None:
        stamped = {
            **status,
            "conditions": [{**one, "lastTransitionTime": _stamp(time.time())} for one in status.get("conditions", [])],
        }
        self._tolerant("PATCH", f"{_path(manifest)}/status", {"status": stamped}, content=MERGE)

    def _forget(self, manifest: Spec) -> None:
        uid = manifest["metadata"]["uid"]
        self._said.pop(uid, None)
        self._tolerant("DELETE", _path(manifest), {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})

    def _tolerant(self, method: str, path: str, body: Json, content: str = "application/json") -> None:
        """A pod may be gone, or changed, at any time: the next look sees that."""
        try:
            self._api.call(method, path, body, content=content)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    @property
    def _node_path(self) -> str:
        return f"/api/v1/nodes/{self.node}"

    def _lookup_of(self, manifest: Spec) -> Lookup:
        return lambda kind, name: self._data(manifest, kind, name)

    def _data(self, manifest: Spec, kind: Kind, name: str) -> Mapping[str, str] | None:
        try:
            found = self._api.call("GET", f"/api/v1/namespaces/{manifest['metadata']['namespace']}/{kind}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        data: dict[str, str] = found.get("data", {})
        return data if kind == "configmaps" else {key: base64.b64decode(text).decode() for key, text in data.items()}

    def _token_for(self, manifest: Spec) -> Callable[[Spec], str]:
        def token(source: Spec) -> str:
            """Of the pod's service account, bound to the pod, as a kubelet asks for it."""
            metadata = manifest["metadata"]
            bound = {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"]}
            spec: Json = {"boundObjectRef": bound, "expirationSeconds": max(600, source.get("expirationSeconds", 3600))}
            if "audience" in source:
                spec["audiences"] = [source["audience"]]
            account = (
                f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{manifest['spec']['serviceAccountName']}"
            )
            request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            return str(self._api.call("POST", f"{account}/token", request)["status"]["token"])

        return token


def status_of(pod: Pod) -> Json:
    """A pod's status as the API server keeps it, without the times of its conditions."""
    container = pod.container
    state: dict[str, Any]
    if pod.is_running:
        phase, state = "Running", {"running": {"startedAt": _stamp(pod.started_at or 0.0)}}
    elif pod.is_over:
        phase = "Succeeded" if pod.last_exit == 0 else "Failed"
        state = {
            "terminated": {
                "exitCode": _exit_code(pod.last_exit),
                "reason": "Completed" if pod.last_exit == 0 else "Error",
            }
        }
    else:
        phase = "Running" if pod.restarts else "Pending"
        reason = (
            "CreateContainerConfigError" if pod.problem else "CrashLoopBackOff" if pod.restarts else "ContainerCreating"
        )
        state = {"waiting": {"reason": reason, "message": pod.problem or ""}}
    holds = {"PodScheduled": True, "Initialized": True, "ContainersReady": pod.is_ready, "Ready": pod.is_ready}
    return {
        "phase": phase,
        "podIP": pod.address,
        "podIPs": [{"ip": pod.address}],
        "hostIP": LOOPBACK,
        "conditions": [{"type": name, "status": str(value)} for name, value in holds.items()],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": pod.is_ready,
                "started": pod.has_started,
                "restartCount": pod.restarts,
                "state": state,
            }
        ],
    }


def _is_going(manifest: Spec) -> bool:
    return "deletionTimestamp" in manifest["metadata"]


def _exit_code(code: int | None) -> int:
    """As a container runtime says it: 128 and the number of the signal."""
    if code is None:
        return UNSTARTABLE
    return code if code >= 0 else UNSTARTABLE - code


def _told(ending: Ending) -> str:
    if not ending.asked_at:
        return f"{ending.pod} is gone; it had ended before"
    how = "killed: its grace period was over" if ending.killed else f"exit code {ending.exit_code}"
    return f"{ending.pod} is gone, {ending.ended_at - ending.asked_at:.1f} s after SIGTERM, {how}"


def _path(manifest: Spec) -> str:
    metadata = manifest["metadata"]
    return f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
