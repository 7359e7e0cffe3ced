"""Where the control plane's programs are, which versions they have, and why these."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from darkroom.consumer.stack.settings import user_cache

VARIABLE: Final = "DARKROOM_CONTROL_PLANE_DIR"

KUBERNETES: Final = "v1.36.3"
"""Has the HPA's tolerance by default (beta from 1.35), which keeps a fleet from standing one short."""
KEDA: Final = "v2.21.0"
"""The version whose kafka trigger the chart was written against: what counts as lag has changed between versions."""
HELM: Final = "v3.22.0"
"""Helm 3 is what platform teams run; Helm 4 takes the same chart."""
MC: Final = "v0.0.0-20250313080218-cf909e1063a9"
"""MinIO's client as of its last release on the Go proxy: what the chart's README clears buckets with."""
ETCD: Final = "3.4"
"""Or newer: Debian's, which the API server takes. It is the one part that is not built."""

BUILT: Final = ("kube-apiserver", "kube-controller-manager", "keda-operator", "keda-adapter", "helm")
"""What `make control-plane` builds for the autoscaling proof."""
CLIENTS: Final = ("kubectl", "mc")
"""What it builds beside: what people run the chart's operations with."""


def folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Outside the checkout, so that all checkouts share one build."""
    given = environ.get(VARIABLE)
    return Path(given).expanduser() if given else user_cache() / "control-plane"


KEDA_TRIGGERS: Final = "scalers-schema.json"
"""The file beside KEDA's resource definitions that lists every trigger's parameters."""


class Missing(Exception):  # noqa: N818 - named for what is not there
    """Something of the control plane is not there: one sentence, with how to get it."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """The programs, each as a path that may be run."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    keda_operator: Path
    keda_adapter: Path
    helm: Path
    keda_crds: Path
    """A folder with KEDA's CustomResourceDefinitions as YAML."""


@dataclass(frozen=True, slots=True)
class Clients:
    """The programs of those who run a release."""

    kubectl: Path
    mc: Path


def crds_in(root: Path) -> Path:
    """Where the build leaves KEDA's CustomResourceDefinitions."""
    return root / "crds" / f"keda-{KEDA}"


def find(root: Path | None = None, path: str | None = None) -> Binaries:
    """Look in the cache folder first, then on PATH (or `path`). Raises `Missing`."""
    root = folder() if root is None else root
    found = {name: find_one(name, root, path) for name in ("etcd", *BUILT)}
    crds = crds_in(root)
    lacking = [name for name, place in found.items() if place is None]
    if not any(crds.glob("*.yaml")):
        lacking.append("KEDA's resource definitions")
    if lacking:
        raise Missing(
            f"This proof was not run: {', '.join(lacking)} not found in {root} or on PATH. `make control-plane` builds "
            "the control plane once (28 minutes and 11 GB on two cores) and says how to get etcd."
        )
    places = {name.replace("-", "_"): place for name, place in found.items() if place is not None}
    return Binaries(**places, keda_crds=crds)


def find_clients(root: Path | None = None, path: str | None = None) -> Clients:
    """As `find`; its own, since the autoscaling proof needs none of them. Raises `Missing`."""
    root = folder() if root is None else root
    found = {name: find_one(name, root, path) for name in CLIENTS}
    if lacking := [name for name, place in found.items() if place is None]:
        raise Missing(
            f"The operations were not run: {', '.join(lacking)} not found in {root} or on PATH. `make control-plane` "
            "builds them; where the rest of the control plane is there, within two minutes."
        )
    return Clients(**{name: place for name, place in found.items() if place is not None})


def find_one(name: str, root: Path, path: str | None = None) -> Path | None:
    """One program: in the cache folder, in a package of Debian's unpacked there, or on PATH."""
    for place in (root / "bin" / name, root / "deb" / "usr" / "bin" / name):
        if os.access(place, os.X_OK) and place.is_file():
            return place
    on_path = shutil.which(name, path=path)
    return Path(on_path) if on_path else None
