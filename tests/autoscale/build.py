"""`make control-plane`: builds a real Kubernetes control plane and KEDA from the Go proxy, once, outside the checkout.

No docker and no other download is needed. What is there already, in the right version, is not built again, and what was
interrupted goes on where it was: Go keeps what it has compiled.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.autoscale.binaries import (
    BUILT,
    CLIENTS,
    ETCD,
    HELM,
    KEDA,
    KEDA_TRIGGERS,
    KUBERNETES,
    MC,
    VARIABLE,
    crds_in,
    find_one,
    folder,
)
from tests.autoscale.go_module import local_module, staged_version, tools_file

DISK_BYTES_MIN: Final = 12 * 1024**3
"""Sources 4 GB, compiled packages 7 GB; both may be deleted afterwards."""
PROGRESS_S: Final = 15.0
COMMAND_S_MAX: Final = 3600.0
"""For one program. The slowest took 14 minutes on two busy cores."""
TAIL_LINES: Final = 15

KUBERNETES_MODULE: Final = "k8s.io/kubernetes"
KEDA_MODULE: Final = "github.com/kedacore/keda/v2"
HELM_MODULE: Final = "helm.sh/helm/v3"
MC_MODULE: Final = "github.com/minio/mc"
MODULE_FOLDERS: Final = {KUBERNETES_MODULE: "kubernetes", KEDA_MODULE: "keda", HELM_MODULE: "helm", MC_MODULE: "mc"}


class BuildFailed(Exception):  # noqa: N818
    """A step did not work: what, and what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """One program to build."""

    name: str
    module: str
    version: str
    package: str
    flags: str
    """Of the linker: what the program says of its version."""


_KUBERNETES_FLAGS: Final = " ".join(
    f"-X k8s.io/component-base/version.{name}={value}"
    for name, value in (("gitVersion", KUBERNETES), ("gitMajor", "1"), ("gitMinor", KUBERNETES.split(".")[1]))
)
_HELM_FLAGS: Final = " ".join(
    f"-X {HELM_MODULE}/pkg/{package}.k8sVersion{name}={value}"
    for package in ("chartutil", "lint/rules")
    for name, value in (("Major", "1"), ("Minor", KUBERNETES.split(".")[1]))
)
"""Without them helm takes a cluster that it is not connected to for Kubernetes 1.20, for which the chart is not."""
PROGRAMS: Final = (
    Program("helm", HELM_MODULE, HELM, f"{HELM_MODULE}/cmd/helm", _HELM_FLAGS),
    *(
        Program(name, KUBERNETES_MODULE, KUBERNETES, f"{KUBERNETES_MODULE}/cmd/{name}", _KUBERNETES_FLAGS)
        for name in ("kube-apiserver", "kube-controller-manager", "kubectl")
    ),
    *(
        Program(
            f"keda-{what}",
            KEDA_MODULE,
            KEDA,
            f"{KEDA_MODULE}/cmd/{what}",
            f"-X {KEDA_MODULE}/version.Version={KEDA[1:]}",
        )
        for what in ("operator", "adapter")
    ),
    Program("mc", MC_MODULE, MC, MC_MODULE, ""),
)


class Build:
    """One run over a cache folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._go = shutil.which("go")
        self._environment: Mapping[str, str] = {
            **os.environ,
            "CGO_ENABLED": "0",
            "GOBIN": str(root / "bin"),
            "GOCACHE": str(root / "gocache"),
            "GOMODCACHE": str(root / "gomod"),
            "GOFLAGS": f"-buildvcs=false -modcacherw {os.environ.get('GOFLAGS', '')}".strip(),
        }

    def run(self) -> None:
        """Everything that is missing. Raises `BuildFailed`."""
        self._check_etcd()
        missing = [program for program in PROGRAMS if not self._is_there(program)]
        if missing:
            self._prepare(missing)
        for program in missing:
            self._build(program)
        if not (crds_in(self.root) / KEDA_TRIGGERS).exists():
            self._copy_definitions()
        there = ", ".join(("etcd", *BUILT, *CLIENTS))
        say(f"The control plane is in {self.root}: {there}, KEDA's resource definitions.")
        if missing:
            say(f"{self.root}/gomod and /gocache are only needed to build again: delete them where disk is short.")

    def _check_etcd(self) -> None:
        etcd = find_one("etcd", self.root)
        if etcd is None:
            raise BuildFailed(
                f"etcd {ETCD} or newer is missing, and is not built here. On Debian: `apt-get install etcd-server`, or "
                f"without root: `apt-get download etcd-server && dpkg -x etcd-server_*.deb {self.root}/deb`."
            )
        say(f"etcd: {etcd}")

    def _is_there(self, program: Program) -> bool:
        """Go writes into each program which modules it was built of."""
        place = find_one(program.name, self.root)
        if place is None:
            return False
        if self._go is None:
            say(f"{program.name}: {place} (without Go its version cannot be told)")
            return True
        said = subprocess.run([self._go, "version", "-m", place], capture_output=True, text=True, check=False).stdout
        right = any(line.split()[1:3] == [program.module, program.version] for line in said.splitlines())
        say(
            f"{program.name}: {place} is {program.version}" if right else f"{program.name}: another version, built anew"
        )
        return right

    def _prepare(self, missing: list[Program]) -> None:
        if self._go is None:
            raise BuildFailed(
                f"Go is needed to build {', '.join(program.name for program in missing)}: install it (1.24 or newer; "
                "it fetches the version that Kubernetes asks for by itself) and run this again."
            )
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if free < DISK_BYTES_MIN:
            raise BuildFailed(
                f"{self.root} has {free / 1024**3:.0f} GiB free, and the build takes {DISK_BYTES_MIN / 1024**3:.0f}: "
                f"make room, or set {VARIABLE} to a folder on a larger disk."
            )
        say(f"building {len(missing)} programs in {self.root}: all seven take about 28 minutes on two cores, and 11 GB")

    def _build(self, program: Program) -> None:
        module = self.root / MODULE_FOLDERS[program.module]
        self._make_module(module, program)
        target = self.root / "bin" / program.name
        target.parent.mkdir(exist_ok=True)
        part = target.with_suffix(".part")  # a program that is half written must not be taken for one
        command = ["build", "-v", "-trimpath", "-ldflags", f"-s -w {program.flags}", "-o", str(part), program.package]
        self._run(f"{program.name} {program.version}", command, module)
        part.replace(target)

    def _make_module(self, module: Path, program: Program) -> None:
        same = [one.package for one in PROGRAMS if one.module == program.module]
        tidy, tools = module / "tidy", tools_file(same)
        if tidy.exists() and tidy.read_text() == tools:
            return
        module.mkdir(exist_ok=True)
        original = Path(self._downloaded(program)["GoMod"]).read_text()
        staging = staged_version(program.version) if program.module == KUBERNETES_MODULE else None
        requires = (program.module, program.version)
        (module / "go.mod").write_text(local_module(f"local{module.name}", original, requires, staging=staging))
        (module / "tools.go").write_text(tools)
        self._run(f"what {program.module} needs", ["mod", "tidy", "-e"], module)
        tidy.write_text(tools)  # for which programs: with another one the module needs more

    def _copy_definitions(self) -> None:
        source = Path(self._downloaded(next(one for one in PROGRAMS if one.module == KEDA_MODULE))["Dir"])
        target = crds_in(self.root)
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted((source / "config" / "crd" / "bases").glob("*.yaml")):
            shutil.copyfile(file, target / file.name)
        shutil.copyfile(source / "schema" / "generated" / KEDA_TRIGGERS, target / KEDA_TRIGGERS)

    def _downloaded(self, program: Program) -> dict[str, str]:
        if self._go is None:
            raise BuildFailed("Go is needed to fetch KEDA's resource definitions: install it and run this again.")
        done = subprocess.run(
            [self._go, "mod", "download", "-json", f"{program.module}@{program.version}"],
            env=self._environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BuildFailed(f"{program.module} {program.version} cannot be fetched: {done.stdout}{done.stderr}")
        found: dict[str, str] = json.loads(done.stdout)
        return found

    def _run(self, what: str, command: list[str], module: Path) -> None:
        """One go command, with a line now and then of how far it is."""
        log = self.root / "build.log"
        begun = time.monotonic()
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(self._go), *command], env=self._environment, cwd=module, stdout=output, stderr=subprocess.STDOUT
            )
            try:
                while process.poll() is None:
                    seconds = time.monotonic() - begun
                    if seconds > COMMAND_S_MAX:
                        raise BuildFailed(f"{what}: not done after {COMMAND_S_MAX / 60:.0f} minutes. See {log}.")
                    _wait(process)
                    lines = log.read_text(errors="replace").count("\n")
                    say(f"{what}: {lines} packages, {time.monotonic() - begun:.0f} s")
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if process.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
            raise BuildFailed(f"{what}: go ended with {process.returncode}. {log} ends with:\n{tail}")


def _wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(PROGRESS_S)
    except subprocess.TimeoutExpired:
        return


def say(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Exit code 0 when all is there."""
    try:
        Build(folder()).run()
    except BuildFailed as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
