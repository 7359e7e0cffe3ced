"""Helm's own program, on this control plane."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tests.autoscale.binaries import KUBERNETES

CHART: Final = Path(__file__).resolve().parents[2] / "helm" / "darkroom"
COMMAND_S_MAX: Final = 300.0
"""Installing waits for the init job, which starts a Python process."""


class HelmRefused(Exception):  # noqa: N818
    """Helm ended with an error: what it said."""


class Helm:
    """One release of the chart in one namespace."""

    def __init__(self, binary: Path, kubeconfig: Path, folder: Path, release: str, namespace: str) -> None:
        """`folder` is where values files go, and Helm's own caches."""
        self.release = release
        self.namespace = namespace
        self._binary = binary
        self._folder = folder / f"helm-{release}"
        self._folder.mkdir()
        self._environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self._folder),
            "KUBECONFIG": str(kubeconfig),
        }

    def install(self, *values: Path | Mapping[str, Any]) -> str:
        """Install, or upgrade what is installed, hooks awaited. Later values go over earlier ones.

        Returns what Helm printed. Raises `HelmRefused`.
        """
        return self._run("upgrade", "--install", self.release, str(CHART), "--create-namespace", *self._files(values))

    def template(self, *values: Path | Mapping[str, Any], hooks: bool = False) -> list[dict[str, Any]]:
        """Every manifest, rendered without a cluster. Raises `HelmRefused`."""
        flags = [] if hooks else ["--no-hooks"]
        flags += ["--kube-version", KUBERNETES]  # without a cluster Helm goes by what it was built against
        text = self._run("template", self.release, str(CHART), *flags, *self._files(values))
        return [manifest for manifest in yaml.safe_load_all(text) if manifest]

    def uninstall(self) -> None:
        """Remove it. Raises `HelmRefused`."""
        self._run("uninstall", self.release)

    def _files(self, values: tuple[Path | Mapping[str, Any], ...]) -> list[str]:
        flags = []
        for number, one in enumerate(values):
            file = one
            if not isinstance(file, Path):
                file = self._folder / f"values-{number}.yaml"
                file.write_text(yaml.safe_dump(one))
            flags += ["--values", str(file)]
        return flags

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._binary), *arguments, "--namespace", self.namespace],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        if done.returncode:
            raise HelmRefused(done.stderr.partition("\nUse --debug")[0].strip())
        return done.stdout
