"""A real Kubernetes control plane and KEDA as plain processes on loopback: etcd, API server, controllers, KEDA.

There is no kubelet, no scheduler and no network among them: `kubelet.py` has what this proof needs of those. All ports
are free ones, everything written is in one folder, and `stop` ends everything that was started.
"""

from __future__ import annotations

import base64
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from consumer.stack import process
from consumer.stack.ports import LOOPBACK, free_ports
from consumer.stack.process import ProcessId
from tests.autoscale.api import ApiError, KubeApi, Manifests
from tests.autoscale.binaries import Binaries
from tests.integration.certificates import Authority

START_S_MAX: Final = 120.0
"""For each part: 2 to 5 s on idle cores, and much more on a machine that compiles meanwhile."""
STOP_S_MAX: Final = 20.0
TAIL_LINES: Final = 15
KEDA_NAMESPACE: Final = "keda"
HPA_SYNC_S: Final = 3
"""How often the HPA looks; a cluster's default is 15 s."""

CONTROLLERS: Final = (
    "deployment-controller",
    "replicaset-controller",
    "job-controller",
    "cronjob-controller",
    "horizontal-pod-autoscaler-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
)
"""What a release of the chart needs. Nothing here watches nodes: there is one, and it is always ready."""

_HOSTS: Final = (
    "localhost",
    "kubernetes",
    "kubernetes.default.svc",
    f"keda-operator.{KEDA_NAMESPACE}.svc",
    f"keda-metrics-apiserver.{KEDA_NAMESPACE}.svc",
)
_PORTS: Final = ("etcd", "peer", "api", "controllers", "operator", "health", "metrics", "adapter", "adapter-metrics")

Report = Callable[[str], None]


class PlaneError(Exception):
    """A part did not come up: which, and the end of its log."""


class Plane:
    """The control plane in one folder. A context manager: `with Plane(...) as plane`, then start what is needed."""

    def __init__(self, binaries: Binaries, folder: Path, report: Report = lambda _line: None) -> None:
        """`folder` is made, or is empty. `report` takes lines of progress."""
        self.folder = folder
        self._binaries = binaries
        self._report = report
        self._ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self._running: list[ProcessId] = []
        self._pki = folder / "pki"
        self._logs = folder / "logs"
        for made in (self._pki, self._logs, folder / "certificates", folder / "keda"):
            made.mkdir(mode=0o700, parents=True)
        authority = Authority(self._pki, "authority")
        self.authority = authority.certificate
        self._server = authority.identity("kube-apiserver", hosts=_HOSTS)
        self._front_proxy = authority.identity("front-proxy-client")
        self._keda = authority.identity("keda", hosts=_HOSTS)
        self._accounts = authority.identity("service-accounts")  # its key signs the accounts' tokens
        self.identity = authority.identity("admin", organization="system:masters")
        self.address = (LOOPBACK, self._ports["api"])
        self.api = KubeApi(f"https://{LOOPBACK}:{self._ports['api']}", authority=self.authority, identity=self.identity)
        self.kubeconfig = self._write_kubeconfig()

    def __enter__(self) -> Plane:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_api(self) -> None:
        """etcd and the API server. Raises `PlaneError`."""
        client, peer = (f"http://{LOOPBACK}:{self._ports[name]}" for name in ("etcd", "peer"))
        etcd = self._start("etcd", self._binaries.etcd, *_etcd_flags(self.folder / "etcd", client, peer))
        # The server waits for etcd by itself.
        server = self._start("kube-apiserver", self._binaries.kube_apiserver, *self._api_flags(client))
        self._await({"etcd": etcd, "kube-apiserver": server}, self.api.is_ready)

    def start_controllers(self) -> None:
        """The controller manager, with the controllers that a release needs. Raises `PlaneError`."""
        flags = {
            **self._delegation(),
            "bind-address": LOOPBACK,
            "secure-port": self._ports["controllers"],
            "cert-dir": self.folder / "certificates",
            "leader-elect": "false",
            "controllers": ",".join(CONTROLLERS),
            "horizontal-pod-autoscaler-sync-period": f"{HPA_SYNC_S}s",
            "service-account-private-key-file": self._accounts,
            "root-ca-file": self.authority,
            "kubeconfig": self.kubeconfig,
        }
        started = self._start("kube-controller-manager", self._binaries.kube_controller_manager, *_flags(flags))
        # Pods need their namespace's account, which a controller makes.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._await({"kube-controller-manager": started}, lambda: self._has(account))

    def define_keda(self) -> None:
        """KEDA's kinds, without anybody who acts on them. Raises `PlaneError` and `ApiError`."""
        manifests = Manifests(self.api, KEDA_NAMESPACE)
        for file in sorted(self._binaries.keda_crds.glob("*.yaml")):
            for manifest in yaml.safe_load_all(file.read_text()):
                manifests.apply(manifest)
        self._await({}, lambda: self._has("/apis/keda.sh/v1alpha1/scaledobjects"))

    def start_keda(self) -> None:
        """KEDA's operator and its metrics server, by which the HPA reads lag. Raises `PlaneError` and `ApiError`."""
        self.define_keda()
        manifests = Manifests(self.api, KEDA_NAMESPACE)
        for manifest in _registration(self._ports["adapter"], self.authority.read_bytes()):
            manifests.apply(manifest)
        for name, source in (("ca.crt", self.authority), ("tls.crt", self._keda), ("tls.key", self._keda)):
            shutil.copyfile(source, self.folder / "keda" / name)
        environment = {
            "KUBECONFIG": str(self.kubeconfig),
            "KEDA_CLUSTER_OBJECT_NAMESPACE": KEDA_NAMESPACE,
            "POD_NAMESPACE": KEDA_NAMESPACE,
            "POD_NAME": "keda-operator",
            "WATCH_NAMESPACE": "",
            "KEDA_HTTP_DEFAULT_TIMEOUT": "3000",
        }
        operator = self._start(
            "keda-operator", self._binaries.keda_operator, *self._operator_flags(), environment=environment
        )
        adapter = self._start(
            "keda-adapter", self._binaries.keda_adapter, *self._adapter_flags(), environment=environment
        )
        self._await({"keda-operator": operator, "keda-adapter": adapter}, self._serves_metrics)

    def stop(self) -> None:
        """End everything, the last started first."""
        for one in reversed(self._running):
            process.ask_to_stop(one)
        for one in reversed(self._running):
            process.stop(one, limit_s=STOP_S_MAX)
        self._running.clear()

    def pids(self) -> list[int]:
        """Of what was started."""
        return [one.pid for one in self._running]

    # --- Flags --------------------------------------------------------------------------------------------

    def _api_flags(self, etcd: str) -> list[str]:
        identity = {f"proxy-client-{what}-file": self._front_proxy for what in ("cert", "key")}
        return _flags(
            {
                "etcd-servers": etcd,
                "bind-address": LOOPBACK,
                "advertise-address": LOOPBACK,
                "secure-port": self._ports["api"],
                "tls-cert-file": self._server,
                "tls-private-key-file": self._server,
                "client-ca-file": self.authority,
                "cert-dir": self.folder / "certificates",
                "authorization-mode": "RBAC",
                "service-account-issuer": "https://kubernetes.default.svc",
                "service-account-key-file": self._accounts,
                "service-account-signing-key-file": self._accounts,
                "service-cluster-ip-range": "10.0.0.0/24",
                "endpoint-reconciler-type": "none",
                "requestheader-client-ca-file": self.authority,
                "requestheader-allowed-names": "front-proxy-client",
                "requestheader-username-headers": "X-Remote-User",
                "requestheader-group-headers": "X-Remote-Group",
                "requestheader-extra-headers-prefix": "X-Remote-Extra-",
                **identity,
            }
        )

    def _operator_flags(self) -> list[str]:
        return _flags(
            {
                "cert-dir": self.folder / "keda",
                "enable-cert-rotation": "false",
                "metrics-bind-address": f"{LOOPBACK}:{self._ports['metrics']}",
                "health-probe-bind-address": f"{LOOPBACK}:{self._ports['health']}",
                "metrics-service-bind-address": f"{LOOPBACK}:{self._ports['operator']}",
                "zap-log-level": "1",
            }
        )

    def _adapter_flags(self) -> list[str]:
        certificate = self.folder / "keda"
        return _flags(
            {
                **self._delegation(),
                "lister-kubeconfig": self.kubeconfig,
                "bind-address": LOOPBACK,
                "secure-port": self._ports["adapter"],
                "cert-dir": certificate,
                "tls-cert-file": certificate / "tls.crt",
                "tls-private-key-file": certificate / "tls.key",
                "metrics-service-address": f"localhost:{self._ports['operator']}",
                "port": self._ports["adapter-metrics"],
            }
        )

    def _delegation(self) -> dict[str, Path]:
        """Who asks the API server about the rights of its own callers."""
        return {"authentication-kubeconfig": self.kubeconfig, "authorization-kubeconfig": self.kubeconfig}

    def _write_kubeconfig(self) -> Path:
        file = self.folder / "kubeconfig"
        server = {"server": f"https://{LOOPBACK}:{self._ports['api']}", "certificate-authority": str(self.authority)}
        user = {"client-certificate": str(self.identity), "client-key": str(self.identity)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "plane", "cluster": server}],
            "users": [{"name": "admin", "user": user}],
            "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": "admin"}}],
            "current-context": "plane",
        }
        file.write_text(yaml.safe_dump(config))
        return file

    # --- Processes ----------------------------------------------------------------------------------------

    def _start(
        self, name: str, binary: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> ProcessId:
        started = process.start(
            [str(binary), *arguments],
            environment={"PATH": "/usr/bin:/bin", "HOME": str(self.folder), **(environment or {})},
            directory=self.folder,
            log=self._logs / f"{name}.log",
        )
        self._running.append(started)
        return started

    def _await(self, parts: Mapping[str, ProcessId], ready: Callable[[], bool]) -> None:
        begun = time.monotonic()
        while not ready():
            for name, part in parts.items():
                if not process.is_running(part):
                    raise PlaneError(f"{name} ended while it started. {self._tail(name)}")
            if time.monotonic() - begun > START_S_MAX:
                raise PlaneError(
                    f"{' and '.join(parts) or 'KEDA kinds'} not up after {START_S_MAX:.0f} s. "
                    + "\n".join(self._tail(name) for name in parts)
                )
            time.sleep(0.1)
        self._report(f"{', '.join(parts) or 'KEDA kinds'} ready in {time.monotonic() - begun:.1f} s")

    def _tail(self, name: str) -> str:
        log = self._logs / f"{name}.log"
        return f"The whole log is {log}. It ends with:\n{process.tail(log, offset=0, lines=TAIL_LINES)}"

    def _has(self, path: str) -> bool:
        try:
            self.api.call("GET", path)
        except ApiError:
            return False
        return True

    def _serves_metrics(self) -> bool:
        """Through the API server, as the HPA asks."""
        return self._has("/apis/external.metrics.k8s.io/v1beta1")


def _etcd_flags(data: Path, client: str, peer: str) -> list[str]:
    return _flags(
        {
            "data-dir": data,
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "logger": "zap",
        }
    )


def _flags(values: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]


def _registration(port: int, authority: bytes) -> list[dict[str, Any]]:
    """What says to the API server that KEDA serves external metrics, and where."""
    service = {"name": "keda-metrics-apiserver", "namespace": KEDA_NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KEDA_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": service,
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
            "spec": {
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "service": {**service, "port": port},
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": base64.b64encode(authority).decode(),
            },
        },
    ]
