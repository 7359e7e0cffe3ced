"""Where somebody who runs a release sits: a folder with the chart and files, a shell, kubectl, helm, mc, darkroom."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.autoscale.binaries import Binaries, Clients
from tests.autoscale.helm import CHART
from tests.autoscale.operations import kubectl_inside, runbook

COMMAND_S_MAX: Final = 600.0
"""For one block: a roll-out of two workers that load a model takes one or two minutes here."""
ROOT: Final = CHART.parents[1]
_SHIM: Final = """#!/bin/sh
PYTHONPATH='{root}' exec '{python}' -m tests.autoscale.operations.kubectl_inside "$@"
"""


class CommandFailed(Exception):  # noqa: N818
    """A block of the README ended with an error: the block, and what was said."""


class Desk:
    """Runs blocks of the README one after another, in one folder."""

    def __init__(
        self, folder: Path, programs: Binaries, clients: Clients, *, kubeconfig: Path, pods: Path,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        """`folder` is made. `pods` is the folder of all nodes' pods."""
        self.folder = folder
        self._say = say
        self._preamble = ""
        tools = folder / "tools"
        tools.mkdir(parents=True)
        (folder / "helm").symlink_to(CHART.parent)
        (tools / "helm").symlink_to(programs.helm)
        (tools / "mc").symlink_to(clients.mc)
        shim = tools / "kubectl"
        shim.write_text(_SHIM.format(root=ROOT, python=sys.executable))
        shim.chmod(0o755)
        self._environment = {
            "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "HOME": str(folder),
            "KUBECONFIG": str(kubeconfig),
            "MC_CONFIG_DIR": str(folder / "mc"),
            kubectl_inside.KUBECTL: str(clients.kubectl),
            kubectl_inside.PODS: str(pods),
        }

    def begin(self, block: str, values: Mapping[str, str]) -> None:
        """Run the section's first block; what it exports holds for all that follow. Raises `CommandFailed`."""
        self.run(block, values)
        self._preamble = "\n".join(line for line in block.splitlines() if line.startswith("export "))

    def run(self, block: str, values: Mapping[str, str] | None = None) -> str:
        """Run a block, its placeholders filled in; what it printed. Raises `CommandFailed`."""
        script = runbook.filled(block, values or {})
        for line in block.strip().splitlines():  # as it is written: what is filled in may be secret
            self._say(f"    $ {line}")
        done = subprocess.run(
            ["bash", "-c", f"set -eo pipefail\n{self._preamble}\n{script}"],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S_MAX,
            check=False,
        )
        if done.returncode:
            raise CommandFailed(f"ended with {done.returncode}:\n{script}{done.stdout}{done.stderr}".strip())
        return done.stdout + done.stderr
