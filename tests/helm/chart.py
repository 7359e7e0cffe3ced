"""Renders the chart with Helm's own engine (helm-python-sdk), without a cluster."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

helm_python = pytest.importorskip(
    "helm_python",
    reason="the chart's tests were not run: helm-python-sdk has no wheel for this machine; use Linux or macOS",
)

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "darkroom"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
RELEASE, NAMESPACE = "demo", "pictures"

Manifest = dict[str, Any]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C takes a tenth of the time."""


class Refused(Exception):  # noqa: N818
    """The chart or its schema does not take the values: what it says."""


@cache
def _chart() -> Any:
    return helm_python.Chart.load(CHART)


def values_of(example: Path) -> dict[str, Any]:
    values = yaml.safe_load(example.read_text())
    assert isinstance(values, dict)
    return values


def render(values: Mapping[str, Any]) -> list[Manifest]:
    """Every manifest. Raises `Refused`."""
    try:
        _chart().validate_schema(dict(values))
        files = _chart().render(values=dict(values), name=RELEASE, namespace=NAMESPACE, is_install=True)
    except helm_python.HelmError as error:
        raise Refused(str(error)) from error
    documents = [yaml.load_all(text, Loader=LOADER) for name, text in sorted(files.items()) if name.endswith(".yaml")]
    return [one for each in documents for one in each if one is not None]


def notes(values: Mapping[str, Any]) -> str:
    files = _chart().render(values=dict(values), name=RELEASE, namespace=NAMESPACE, is_install=True)
    return str(files["darkroom/templates/NOTES.txt"])


def with_values(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with dotted paths changed: `{"worker.replicas": 3}`."""
    values = copy.deepcopy(dict(base))
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = values
        for name in parents:
            place = place.setdefault(name, {})
        place[last] = value
    return values


def one(manifests: list[Manifest], kind: str, part: str | None = None) -> Manifest:
    """The one manifest of a kind, and of a part of the chart."""
    found = [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind
        and (part is None or manifest["metadata"]["labels"]["app.kubernetes.io/component"] == part)
    ]
    assert len(found) == 1, [manifest["metadata"]["name"] for manifest in found]
    return found[0]


def pod_of(manifest: Manifest) -> dict[str, Any]:
    """The pod's spec in a workload."""
    spec = manifest["spec"]
    if manifest["kind"] == "Pod":
        return dict(spec)
    if manifest["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    return dict(spec["template"]["spec"])


WORKLOADS = {"Deployment", "Job", "CronJob", "Pod"}


def environment_of(manifests: list[Manifest], workload: Manifest) -> dict[str, str]:
    """The variables of a workload's container; what a field or a Secret gives is `from-elsewhere`."""
    settings = {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == "ConfigMap"}
    (container,) = pod_of(workload)["containers"]
    variables: dict[str, str] = {}
    for source in container["envFrom"]:
        variables |= settings[source["configMapRef"]["name"]]["data"]
    for entry in container["env"]:
        variables[entry["name"]] = entry.get("value", "from-elsewhere")
    return variables
