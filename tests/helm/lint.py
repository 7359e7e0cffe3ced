"""Lints the chart with every example, and the Dockerfile: `python -m tests.helm.lint`, a part of `make check`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "darkroom"


def chart_findings() -> list[str]:
    """What Helm's lint says beyond information. Raises `ImportError` where Helm's library has no wheel."""
    import helm_python

    found = []
    for example in sorted((CHART / "examples").glob("*.yaml")):
        report = helm_python.lint(CHART, yaml.safe_load(example.read_text()), strict=True)
        told = [message["error"] for message in report["messages"] if message["severity"] > 1]
        found += [f"helm/darkroom with examples/{example.name}: {one}" for one in told]
    return found


def dockerfile_findings(hadolint: str) -> list[str]:
    """What hadolint says."""
    done = subprocess.run(
        [hadolint, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60
    )
    return [line for line in (done.stdout + done.stderr).splitlines() if line]


def hadolint() -> str | None:
    """The linter beside this Python, or on the path; None where there is none for this machine."""
    return shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


def main() -> int:
    found = []
    try:
        found += chart_findings()
    except ImportError:
        print("The chart was not linted: helm-python-sdk has no wheel for this machine.")
    if (linter := hadolint()) is not None:
        found += dockerfile_findings(linter)
    else:
        print("The Dockerfile was not linted: hadolint has no wheel for this machine.")
    print("\n".join(found) or "The chart and the Dockerfile are clean.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
