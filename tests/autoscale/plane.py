"""A real Kubernetes control plane and KEDA as plain processes on loopback: etcd, API server, controllers, KEDA.

There is no kubelet, no scheduler and no network among them: `kubelet.py` has what this proof needs of those. All ports
are free ones, everything written is in one folder, and `stop` ends everything that was started.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

import yaml

from darkroom.consumer.stack import process
from darkroom.consumer.stack.ports import LOOPBACK, free_ports
from darkroom.consumer.stack.process import ProcessId
from tests.autoscale import parts
from tests.autoscale.api import ApiError, KubeApi, Manifests
from tests.autoscale.binaries import Binaries
from tests.integration.certificates import Authority

START_S_MAX: Final = 180.0
"""For each part: 2 to 5 s on idle cores, a minute on a machine that compiles meanwhile."""
STOP_S_MAX: Final = 20.0
LOOK_S: Final = 0.1
TAIL_LINES: Final = 15

Report = Callable[[str], None]


class PlaneError(Exception):
    """A part did not come up, or ended before its time: which, what to do, and the end of its log."""


class Plane:
    """The control plane in one folder. A context manager: `with Plane(...) as plane`, then start what is needed."""

    def __init__(self, binaries: Binaries, folder: Path, report: Report = lambda _line: None) -> None:
        """`folder` is made. `report` takes lines of progress."""
        self._binaries = binaries
        self._folder = folder
        self._report = report
        self._running: dict[str, ProcessId] = {}
        self._logs = folder / "logs"
        self._logs.mkdir(mode=0o700, parents=True)
        self._ports = parts.Ports(*free_ports(len(fields(parts.Ports))))
        self._files = _files(folder)
        self.kubeconfig = self._files.kubeconfig
        self.kubeconfig.write_text(yaml.safe_dump(parts.kubeconfig(self._ports, self._files)))
        self.address = (LOOPBACK, self._ports.api)
        url = f"https://{LOOPBACK}:{self._ports.api}"
        self.api = KubeApi(url, authority=self._files.authority, identity=self._files.admin)

    def __enter__(self) -> Plane:
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        """Raises `PlaneError` in place of an error whose cause is that a part has ended."""
        ended = [name for name, one in self._running.items() if not process.is_running(one)]
        self.stop()
        if ended and isinstance(error, Exception):
            tails = "\n".join(self._tail(name) for name in ended)
            raise PlaneError(
                f"{' and '.join(ended)} ended while the proof ran, so nothing was proven. Where the log names no "
                "reason, the system killed it: see that some 2 GB of memory and disk are free, and run this again. "
                f"{tails}"
            ) from error

    def start_api(self) -> None:
        """etcd and the API server, which waits for etcd by itself. Raises `PlaneError`."""
        etcd = self._start("etcd", self._binaries.etcd, parts.etcd)
        server = self._start("kube-apiserver", self._binaries.kube_apiserver, parts.kube_apiserver)
        self._await({"etcd": etcd, "kube-apiserver": server}, self.api.is_ready)

    def start_controllers(self) -> None:
        """The controller manager, with the controllers that a release needs. Raises `PlaneError`."""
        name = "kube-controller-manager"
        started = self._start(name, self._binaries.kube_controller_manager, parts.kube_controller_manager)
        # Pods need their namespace's account, which a controller makes.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        self._await({name: started}, lambda: self._has(account))

    def define_keda(self) -> None:
        """KEDA's kinds, without anybody who acts on them. Raises `PlaneError` and `ApiError`."""
        manifests = Manifests(self.api, parts.KEDA_NAMESPACE)
        for file in sorted(self._binaries.keda_crds.glob("*.yaml")):
            for manifest in yaml.safe_load_all(file.read_text()):
                manifests.apply(manifest)
        self._await({}, lambda: self._has("/apis/keda.sh/v1alpha1/scaledobjects"))

    def start_keda(self) -> None:
        """KEDA's operator and its metrics server, by which the HPA reads lag. Raises `PlaneError` and `ApiError`."""
        self.define_keda()
        manifests = Manifests(self.api, parts.KEDA_NAMESPACE)
        for manifest in parts.keda_registration(self._ports, self._files):
            manifests.apply(manifest)
        environment = parts.keda_environment(self._files)
        operator = self._start("keda-operator", self._binaries.keda_operator, parts.keda_operator, environment)
        adapter = self._start("keda-adapter", self._binaries.keda_adapter, parts.keda_adapter, environment)
        # Through the API server, as the HPA asks.
        metrics = "/apis/external.metrics.k8s.io/v1beta1"
        self._await({"keda-operator": operator, "keda-adapter": adapter}, lambda: self._has(metrics))

    def stop(self) -> None:
        """End everything, the last started first."""
        for one in reversed(self._running.values()):
            process.ask_to_stop(one)
        for one in reversed(self._running.values()):
            process.stop(one, limit_s=STOP_S_MAX)
        self._running.clear()

    def _start(
        self,
        name: str,
        binary: Path,
        flags: Callable[[parts.Ports, parts.Files], list[str]],
        environment: Mapping[str, str] | None = None,
    ) -> ProcessId:
        started = process.start(
            [str(binary), *flags(self._ports, self._files)],
            environment={"PATH": "/usr/bin:/bin", "HOME": str(self._folder), **(environment or {})},
            directory=self._folder,
            log=self._logs / f"{name}.log",
        )
        self._running[name] = started
        return started

    def _await(self, started: Mapping[str, ProcessId], ready: Callable[[], bool]) -> None:
        what = " and ".join(started) or "KEDA's kinds"
        begun = time.monotonic()
        while not ready():
            for name, one in started.items():
                if not process.is_running(one):
                    raise PlaneError(f"{name} ended while it started. {self._tail(name)}")
            if time.monotonic() - begun > START_S_MAX:
                tails = "\n".join(self._tail(name) for name in started)
                raise PlaneError(f"{what} not ready after {START_S_MAX:.0f} s. {tails}")
            time.sleep(LOOK_S)
        self._report(f"{what} ready in {time.monotonic() - begun:.1f} s")

    def _tail(self, name: str) -> str:
        log = self._logs / f"{name}.log"
        return f"The whole log is {log}. It ends with:\n{process.tail(log, offset=0, lines=TAIL_LINES)}"

    def _has(self, path: str) -> bool:
        try:
            self.api.call("GET", path)
        except ApiError:
            return False
        return True


def _files(folder: Path) -> parts.Files:
    """The folders are made, and every certificate is signed by one authority that is forgotten."""
    pki, keda = folder / "pki", folder / "keda"
    for made in (pki, keda, folder / "made"):
        made.mkdir(mode=0o700)
    authority = Authority(pki, "authority")
    keda_identity = authority.identity("keda", hosts=parts.HOSTS)
    shutil.copyfile(authority.certificate, keda / "ca.crt")
    for name in ("tls.crt", "tls.key"):
        shutil.copyfile(keda_identity, keda / name)
    return parts.Files(
        authority=authority.certificate,
        server=authority.identity("kube-apiserver", hosts=parts.HOSTS),
        front_proxy=authority.identity(parts.FRONT_PROXY),
        accounts=authority.identity("service-accounts"),
        admin=authority.identity("admin", organization="system:masters"),
        kubeconfig=folder / "kubeconfig",
        etcd_data=folder / "etcd",
        made=folder / "made",
        keda=keda,
    )
