"""Proves that a pod as a process is started, probed, reported, stopped and killed as a kubelet would; on a fake API."""

from __future__ import annotations

import base64
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.autoscale.fake_api import FakeApi
from tests.autoscale.kubelet import NODE, Kubelet

LIMIT_S = 60.0
SLEEPS = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)
DRAINS = """
    import signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("awake", flush=True)
    time.sleep(600)
"""
SERVES = """
    import http.server, os, pathlib
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if pathlib.Path("is-ready").exists() else 503)
            self.end_headers()
    http.server.HTTPServer((os.environ["HOST"], 8080), Handler).serve_forever()
"""


def python(program: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(program)]


class Run:
    """A kubelet whose looks the test makes."""

    def __init__(self, folder: Path) -> None:
        self.api = FakeApi()
        self.said: list[str] = []
        self.kubelet = Kubelet(self.api, folder, ("127.0.0.1", 6443), self.said.append)

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not holds():
            assert time.monotonic() < deadline, (self.said, self.api.objects)
            self.kubelet.look(time.monotonic())
            time.sleep(0.01)

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.api.pod(name).get("status", {})
        return status

    def is_ready(self, name: str) -> bool:
        return any(one == {**one, "type": "Ready", "status": "True"} for one in self.status(name).get("conditions", []))

    def state(self, name: str) -> dict[str, Any]:
        state: dict[str, Any] = (self.status(name).get("containerStatuses") or [{"state": {}}])[0]["state"]
        return state

    def log(self, name: str) -> str:
        (pod,) = [pod for pod in self.kubelet.history if pod.name == name]
        return pod.log.read_text() if pod.log.exists() else ""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    made = Run(tmp_path)
    yield made
    made.kubelet.stop()


def test_a_pod_is_bound_started_and_told_who_it_is(run: Run) -> None:
    run.api.put("configmaps", "settings", data={"DARKROOM_KAFKA__GROUP_ID": "night", "LISTEN": "0.0.0.0"})
    run.api.put("secrets", "kafka", data={"user": base64.b64encode(b"ada").decode()})
    run.api.put("secrets", "s3", data={"access-key": base64.b64encode(b"AKIA").decode()})
    run.api.put_pod(
        "worker-1",
        {
            "command": python(
                "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:], open(sys.argv[1]).read()]))"
            ),
            "args": ["/etc/darkroom/s3/access-key", "$(USER)-$(NOBODY)"],
            "envFrom": [{"configMapRef": {"name": "settings"}}],
            "env": [
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "PART", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['part']"}}},
                {"name": "USER", "valueFrom": {"secretKeyRef": {"name": "kafka", "key": "user"}}},
                {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "kafka", "key": "no", "optional": True}}},
                {"name": "CACHE", "value": "/var/cache/darkroom/models"},
            ],
            "volumeMounts": [
                {"name": "s3", "mountPath": "/etc/darkroom/s3"},
                {"name": "cache", "mountPath": "/var/cache/darkroom"},
            ],
        },
        restartPolicy="Never",
        volumes=[{"name": "s3", "secret": {"secretName": "s3"}}, {"name": "cache", "emptyDir": {}}],
    )
    run.until(lambda: run.status("worker-1").get("phase") == "Succeeded")
    assert run.api.pod("worker-1")["spec"]["nodeName"] == NODE
    environment, arguments, key = json.loads(run.log("worker-1"))
    address = run.status("worker-1")["podIP"]
    assert address.startswith("127.9.")
    assert environment["DARKROOM_KAFKA__GROUP_ID"] == "night"
    assert environment["LISTEN"] == address
    assert (environment["NAME"], environment["PART"], environment["USER"]) == ("worker-1", "worker", "ada")
    assert "NONE" not in environment
    assert "HOME" not in environment, "nothing of this machine's environment"
    cache = Path(environment["CACHE"])
    assert cache.parent.is_dir()
    assert cache.is_absolute()
    assert arguments[1] == "ada-$(NOBODY)"
    assert key == "AKIA"


def test_a_service_accounts_token_is_bound_to_the_pod(run: Run) -> None:
    run.api.put("configmaps", "kube-root-ca.crt", data={"ca.crt": "PEM"})
    sources = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
    ]
    run.api.put_pod(
        "worker-1",
        {
            "command": ["sh", "-c", 'cat "$DIR/token" "$DIR/ca.crt" "$DIR/namespace"'],
            "env": [{"name": "DIR", "value": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            "volumeMounts": [{"name": "api", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        },
        restartPolicy="Never",
        serviceAccountName="worker",
        volumes=[{"name": "api", "projected": {"sources": sources}}],
    )
    run.until(lambda: run.status("worker-1").get("phase") == "Succeeded")
    assert run.log("worker-1") == "token-1PEMpictures"
    (asked,) = run.api.tokens
    assert asked["spec"]["boundObjectRef"]["uid"] == run.api.pod("worker-1")["metadata"]["uid"]


def test_a_cordoned_node_takes_no_further_pod(run: Run) -> None:
    run.api.cordoned.add(NODE)
    run.api.put_pod("worker-1", {"command": python(SLEEPS)})
    for _ in range(3):
        run.kubelet.look(time.monotonic())
    assert not run.kubelet.history
    run.api.cordoned.clear()
    run.until(lambda: "running" in run.state("worker-1"))


def test_a_changed_secret_comes_to_a_running_pod(run: Run) -> None:
    run.api.put("secrets", "keys", data={"keys.jsonl": base64.b64encode(b"old").decode()})
    run.api.put_pod(
        "gateway-1",
        {
            "command": ["sh", "-c", 'until grep new "$FILE"; do sleep 0.05; done; sleep 600'],
            "env": [{"name": "FILE", "value": "/etc/keys/keys.jsonl"}],
            "volumeMounts": [{"name": "keys", "mountPath": "/etc/keys"}],
        },
        volumes=[{"name": "keys", "secret": {"secretName": "keys"}}],
    )
    run.until(lambda: "running" in run.state("gateway-1"))
    run.api.put("secrets", "keys", data={"keys.jsonl": base64.b64encode(b"new").decode()})
    run.until(lambda: run.log("gateway-1") == "new\n")


def test_a_pod_is_ready_when_its_probe_says_so_and_no_longer(run: Run) -> None:
    get = {"httpGet": {"path": "/readyz", "port": "web"}, "periodSeconds": 0.05, "timeoutSeconds": 5}
    run.api.put_pod(
        "worker-1",
        {
            "command": python(SERVES),
            "env": [{"name": "HOST", "value": "0.0.0.0"}],
            "ports": [{"name": "web", "containerPort": 8080}],
            "startupProbe": {**get, "failureThreshold": 10_000},
            "readinessProbe": {**get, "failureThreshold": 2},
        },
    )
    run.until(lambda: "running" in run.state("worker-1"))
    assert not run.is_ready("worker-1")
    (pod,) = run.kubelet.history
    marker = pod.log.parent / "is-ready"
    marker.touch()
    run.until(lambda: run.is_ready("worker-1"))
    marker.unlink()
    run.until(lambda: not run.is_ready("worker-1"))
    assert pod.is_running


def test_a_container_that_never_starts_is_killed_and_started_again(run: Run) -> None:
    probe = {"httpGet": {"port": 8080}, "periodSeconds": 0.05, "failureThreshold": 2}
    run.api.put_pod("worker-1", {"command": python(SLEEPS), "startupProbe": probe})
    run.until(lambda: bool(run.kubelet.history) and run.kubelet.history[0].restarts > 0)
    assert run.kubelet.history[0].last_exit == -9


def test_sigterm_comes_first_and_is_all_that_a_draining_pod_gets(run: Run) -> None:
    run.api.put_pod("worker-1", {"command": python(DRAINS)})
    run.until(lambda: bool(run.kubelet.history) and "awake" in run.log("worker-1"))
    run.api.delete_pod("worker-1", grace_s=30)
    run.until(lambda: not run.api.has_pod("worker-1"))
    (ending,) = run.kubelet.endings
    assert (ending.exit_code, ending.killed) == (0, False)
    assert ending.asked_at <= ending.ended_at
    assert not run.kubelet.pods


def test_the_grace_period_ends_in_sigkill_and_not_before(run: Run) -> None:
    run.api.put_pod("worker-1", {"command": python(STUBBORN)})
    run.until(lambda: bool(run.kubelet.history) and "deaf" in run.log("worker-1"))
    run.api.delete_pod("worker-1", grace_s=1)
    run.until(lambda: not run.api.has_pod("worker-1"))
    (ending,) = run.kubelet.endings
    assert (ending.exit_code, ending.killed) == (-9, True)
    assert ending.ended_at - ending.asked_at >= 0.9


def test_pre_stop_waits_before_sigterm(run: Run) -> None:
    run.api.put_pod("worker-1", {"command": python(DRAINS), "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}})
    run.until(lambda: bool(run.kubelet.history) and "awake" in run.log("worker-1"))
    deleted_at = time.time()
    run.api.delete_pod("worker-1", grace_s=30)
    run.until(lambda: not run.api.has_pod("worker-1"))
    (ending,) = run.kubelet.endings
    assert ending.exit_code == 0
    assert ending.asked_at - deleted_at >= 0.9


def test_a_pod_that_is_gone_by_force_leaves_no_process(run: Run) -> None:
    run.api.put_pod("worker-1", {"command": python(SLEEPS)})
    run.until(lambda: "running" in run.state("worker-1"))
    (pod,) = run.kubelet.history
    run.api.objects.clear()
    run.kubelet.look(time.monotonic())
    assert not pod.is_running


@pytest.mark.parametrize(("policy", "code", "phase"), [("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded")])
def test_a_job_pod_that_ended_says_how(run: Run, policy: str, code: int, phase: str) -> None:
    run.api.put_pod("job-1", {"command": ["sh", "-c", f"exit {code}"]}, restartPolicy=policy)
    run.until(lambda: run.status("job-1").get("phase") == phase)
    assert run.state("job-1")["terminated"]["exitCode"] == code


def test_a_worker_that_ended_is_started_again(run: Run) -> None:
    run.api.put_pod("worker-1", {"command": ["sh", "-c", "exit 0"]})
    run.until(lambda: bool(run.kubelet.history) and run.kubelet.history[0].restarts > 0)
    run.until(lambda: run.status("worker-1")["containerStatuses"][0]["restartCount"] > 0)
    assert run.status("worker-1")["phase"] == "Running"


def test_what_is_missing_is_said_and_the_pod_comes_up_when_it_is_there(run: Run) -> None:
    container = {"command": python(SLEEPS), "envFrom": [{"secretRef": {"name": "late"}}]}
    run.api.put_pod("worker-1", container)
    run.until(lambda: run.state("worker-1").get("waiting", {}).get("reason") == "CreateContainerConfigError")
    assert "there is no late among the secrets" in run.state("worker-1")["waiting"]["message"]
    run.api.put("secrets", "late", data={})
    run.until(lambda: "running" in run.state("worker-1"))


def test_what_a_process_cannot_be_is_refused(run: Run) -> None:
    run.api.put_pod("worker-1", {"command": ["true"]}, initContainers=[{"name": "first"}])
    run.until(lambda: run.status("worker-1").get("phase") == "Failed")
    assert "several containers" in run.status("worker-1")["message"]
