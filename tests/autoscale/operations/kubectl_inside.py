"""Stands before kubectl on the PATH of the commands: runs `exec` where pods are processes, and hands on all else.

The node here has nobody who could be asked for a stream. So `kubectl exec deployment/NAME -- COMMAND` asks the real API
which pod that is, and runs the command with the environment and in the folder of that pod's process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from tests.autoscale.pod import ENVIRONMENT

KUBECTL: Final = "PROOF_KUBECTL"
"""The variable that names the real one."""
PODS: Final = "PROOF_PODS"
"""The folder that has a folder for each node, which has one for each pod."""


def main() -> None:
    """Ends as the command ends."""
    words = sys.argv[1:]
    kubectl = os.environ[KUBECTL]
    if "exec" not in words:
        os.execv(kubectl, [kubectl, *words])
    at = words.index("exec")
    options, target, command = words[:at], words[at + 1], words[words.index("--") + 1 :]
    folder = _folder(kubectl, options, target)
    variables = json.loads((folder / ENVIRONMENT).read_text())
    os.chdir(folder)
    os.execvpe(command[0], command, variables)


def _folder(kubectl: str, options: list[str], target: str) -> Path:
    """Of a running pod that the target selects."""
    selector = _get(kubectl, options, target)["spec"]["selector"]["matchLabels"]
    labels = ",".join(f"{name}={value}" for name, value in selector.items())
    for pod in _get(kubectl, options, "pods", "--selector", labels, "--field-selector", "status.phase=Running")[
        "items"
    ]:
        metadata = pod["metadata"]
        if "deletionTimestamp" not in metadata:
            found = list(Path(os.environ[PODS]).glob(f"*/{metadata['name']}-{metadata['uid'][:8]}"))
            if found:
                return found[0]
    sys.exit(f"Error: no pod of {target} runs here.")


def _get(kubectl: str, options: list[str], *what: str) -> Any:
    done = subprocess.run([kubectl, *options, "get", *what, "-o", "json"], stdout=subprocess.PIPE, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


if __name__ == "__main__":
    main()
