"""What each part of the control plane is told at its start: flags, a kubeconfig, KEDA's registration. Pure.

Where a flag has two sorts of file (a certificate and its key), both are one PEM that holds both.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from darkroom.consumer.stack.ports import LOOPBACK

KEDA_NAMESPACE: Final = "keda"
HPA_SYNC_S: Final = 3
"""How often the HPA looks; a cluster's default is 15 s."""
CONTROLLERS: Final = (
    "deployment-controller",
    "replicaset-controller",
    "job-controller",
    "cronjob-controller",
    "horizontal-pod-autoscaler-controller",
    "disruption-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
)
"""What a release of the chart needs. Nothing here watches nodes: they are always ready."""
HOSTS: Final = (
    "localhost",
    "kubernetes",
    "kubernetes.default.svc",
    f"keda-operator.{KEDA_NAMESPACE}.svc",
    f"keda-metrics-apiserver.{KEDA_NAMESPACE}.svc",
)
"""By which names the parts know each other."""
FRONT_PROXY: Final = "front-proxy-client"
"""As whom the API server comes to KEDA's metrics server."""


@dataclass(frozen=True, slots=True)
class Ports:
    """All on loopback."""

    etcd: int
    etcd_peer: int
    api: int
    controllers: int
    operator: int
    operator_health: int
    operator_metrics: int
    adapter: int
    adapter_metrics: int


@dataclass(frozen=True, slots=True)
class Files:
    """Certificates, and folders that the parts write to."""

    authority: Path
    server: Path
    front_proxy: Path
    accounts: Path
    """Its key signs the tokens of service accounts."""
    admin: Path
    kubeconfig: Path
    etcd_data: Path
    made: Path
    """A folder for certificates that a part makes for itself."""
    keda: Path
    """A folder with ca.crt, tls.crt and tls.key."""


def etcd(ports: Ports, files: Files) -> list[str]:
    """One member, on loopback."""
    client, peer = f"http://{LOOPBACK}:{ports.etcd}", f"http://{LOOPBACK}:{ports.etcd_peer}"
    return _flags(
        {
            "data-dir": files.etcd_data,
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "logger": "zap",
        }
    )


def kube_apiserver(ports: Ports, files: Files) -> list[str]:
    """With RBAC, service accounts, and an aggregation layer that KEDA's metrics server can join."""
    return _flags(
        {
            "etcd-servers": f"http://{LOOPBACK}:{ports.etcd}",
            "bind-address": LOOPBACK,
            "advertise-address": LOOPBACK,
            "secure-port": ports.api,
            "tls-cert-file": files.server,
            "tls-private-key-file": files.server,
            "client-ca-file": files.authority,
            "cert-dir": files.made,
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": files.accounts,
            "service-account-signing-key-file": files.accounts,
            "service-cluster-ip-range": "10.0.0.0/24",
            "endpoint-reconciler-type": "none",
            "requestheader-client-ca-file": files.authority,
            "requestheader-allowed-names": FRONT_PROXY,
            "requestheader-username-headers": "X-Remote-User",
            "requestheader-group-headers": "X-Remote-Group",
            "requestheader-extra-headers-prefix": "X-Remote-Extra-",
            "proxy-client-cert-file": files.front_proxy,
            "proxy-client-key-file": files.front_proxy,
        }
    )


def kube_controller_manager(ports: Ports, files: Files) -> list[str]:
    """The controllers that a release needs, with an HPA that looks more often."""
    return _flags(
        {
            **_delegation(files),
            "kubeconfig": files.kubeconfig,
            "bind-address": LOOPBACK,
            "secure-port": ports.controllers,
            "cert-dir": files.made,
            "leader-elect": "false",
            "controllers": ",".join(CONTROLLERS),
            "horizontal-pod-autoscaler-sync-period": f"{HPA_SYNC_S}s",
            "service-account-private-key-file": files.accounts,
            "root-ca-file": files.authority,
        }
    )


def keda_operator(ports: Ports, files: Files) -> list[str]:
    """Watches ScaledObjects, asks Kafka, wakes fleets and puts them to sleep."""
    return _flags(
        {
            "cert-dir": files.keda,
            "enable-cert-rotation": "false",
            "metrics-bind-address": f"{LOOPBACK}:{ports.operator_metrics}",
            "health-probe-bind-address": f"{LOOPBACK}:{ports.operator_health}",
            "metrics-service-bind-address": f"{LOOPBACK}:{ports.operator}",
            "zap-log-level": "1",
        }
    )


def keda_adapter(ports: Ports, files: Files) -> list[str]:
    """Serves the lag to the HPA, by way of the API server."""
    return _flags(
        {
            **_delegation(files),
            "lister-kubeconfig": files.kubeconfig,
            "bind-address": LOOPBACK,
            "secure-port": ports.adapter,
            "cert-dir": files.keda,
            "tls-cert-file": files.keda / "tls.crt",
            "tls-private-key-file": files.keda / "tls.key",
            "metrics-service-address": f"localhost:{ports.operator}",
            "port": ports.adapter_metrics,
        }
    )


def keda_environment(files: Files) -> dict[str, str]:
    """Of both of KEDA's parts."""
    return {
        "KUBECONFIG": str(files.kubeconfig),
        "KEDA_CLUSTER_OBJECT_NAMESPACE": KEDA_NAMESPACE,
        "POD_NAMESPACE": KEDA_NAMESPACE,
        "POD_NAME": "keda-operator",
        "WATCH_NAMESPACE": "",
        "KEDA_HTTP_DEFAULT_TIMEOUT": "3000",
    }


def kubeconfig(ports: Ports, files: Files) -> dict[str, Any]:
    """Of an administrator."""
    server = {"server": f"https://{LOOPBACK}:{ports.api}", "certificate-authority": str(files.authority)}
    user = {"client-certificate": str(files.admin), "client-key": str(files.admin)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "plane", "cluster": server}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": "admin"}}],
        "current-context": "plane",
    }


def keda_registration(ports: Ports, files: Files) -> list[dict[str, Any]]:
    """What says to the API server that KEDA serves external metrics, and where."""
    service = {"name": "keda-metrics-apiserver", "namespace": KEDA_NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": KEDA_NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": service,
            "spec": {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": ports.adapter}]},
        },
        {
            "apiVersion": "apiregistration.k8s.io/v1",
            "kind": "APIService",
            "metadata": {"name": "v1beta1.external.metrics.k8s.io"},
            "spec": {
                "group": "external.metrics.k8s.io",
                "version": "v1beta1",
                "service": {**service, "port": ports.adapter},
                "groupPriorityMinimum": 100,
                "versionPriority": 100,
                "caBundle": base64.b64encode(files.authority.read_bytes()).decode(),
            },
        },
    ]


def _delegation(files: Files) -> dict[str, Path]:
    """Where a part asks about the rights of its own callers."""
    return {"authentication-kubeconfig": files.kubeconfig, "authorization-kubeconfig": files.kubeconfig}


def _flags(values: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in values.items()]
