"""Proves what can be told of the images without building them, which takes a docker engine: that was not done."""

from __future__ import annotations

import json
import re
import tomllib

import pytest
import yaml

from darkroom.schemas.settings import load_settings
from tests.helm.chart import ROOT, WORKLOADS, pod_of, render, values_of
from tests.helm.lint import CHART, chart_findings, dockerfile_findings, hadolint

TEXT = (ROOT / "Dockerfile").read_text()
FINAL = ("gateway", "worker-cpu", "worker")
FLEET = values_of(CHART / "examples" / "fleet.yaml")


def stages() -> dict[str, str]:
    """Each stage's instructions, by name."""
    parts = re.split(r"(?m)^FROM (\S+) AS (\S+)$", TEXT)
    return {parts[place + 1]: f"FROM {parts[place]}\n{parts[place + 2]}" for place in range(1, len(parts), 3)}


def test_bases_are_pinned_to_a_version() -> None:
    names = set(stages())
    bases = {base for base in re.findall(r"(?m)^FROM (\S+)", TEXT) if base not in names}
    assert bases == {"ubuntu:24.04", "nvidia/cuda:13.0.1-base-ubuntu24.04"}


def packages(name: str) -> set[str]:
    """The distribution's packages that a stage has: its own, and those of the stages it is built on."""
    stage = stages()[name]
    base = stage.split(maxsplit=2)[1]
    installs = re.findall(r"apt-get install --yes --no-install-recommends ([^\\&]+)", stage)
    inherited = packages(base) if base in stages() else set()
    return inherited | {package for install in installs for package in install.split()}


@pytest.mark.parametrize("name", FINAL)
def test_an_image_runs_as_nobody_and_says_what_it_is(name: str) -> None:
    stage = stages()[name]
    (user,) = re.findall(r"(?m)^USER (\S+)", stage)
    assert user == "10001:10001"
    assert stage.index("USER ") > stage.rindex("RUN ")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in stage
    assert "HEALTHCHECK" in stage
    assert "pip install" not in stage, "only what a build stage installed is in an image"


@pytest.mark.parametrize("name", FINAL)
def test_process_1_is_an_init_that_was_installed(name: str) -> None:
    """A SIGTERM before Python has set its handlers is lost where Python is process 1, which has no default action."""
    (entry,) = re.findall(r"(?m)^ENTRYPOINT (.+)$", stages()[name])
    assert json.loads(entry) == ["/usr/bin/tini", "--", "darkroom"]
    assert "tini" in packages(name), "the entry point is not in the image"


def test_compose_keeps_the_images_entry_point() -> None:
    built = [one for one in yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values() if "build" in one]
    assert len(built) == 3
    assert not any("entrypoint" in one for one in built)


def test_the_chart_keeps_the_images_entry_point() -> None:
    pods = [pod_of(manifest) for manifest in render(FLEET) if manifest["kind"] in WORKLOADS - {"Pod"}]
    ours = [one for pod in pods for one in pod["containers"] if "/darkroom-" in one["image"]]
    assert {one["args"][0] for one in ours} == {"serve", "gateway", "init"}
    assert not any("command" in one for one in ours)


def test_everything_installed_is_locked_by_hash_and_nothing_is_for_developers() -> None:
    installs = re.findall(r"uv pip install(?:[^\n]*\\\n)*[^\n]*", TEXT)
    assert len(installs) == 4
    for install in installs:
        assert "requirements.lock" in install
        assert "--verify-hashes" in install or "--no-deps" in install
    extras = set(re.findall(r"--extra (\S+)", TEXT))
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras == {"aws", "render", "gateway", "photos", "provenance", "trace"} <= declared.keys()
    assert "ADD " not in TEXT
    version = re.search(r"uv==(\S+)", (ROOT / "Makefile").read_text())
    assert version is not None
    assert f"uv=={version[1]}\n" in TEXT


def test_the_gateway_has_no_torch() -> None:
    assert "--extra render" not in stages()["build-gateway"]
    assert "build-worker" not in stages()["gateway"]


def test_the_images_variables_are_settings() -> None:
    for name in ("worker", "worker-cpu"):
        variables = dict(re.findall(r"(DARKROOM_[A-Z_]+)=(\S+)", stages()[name]))
        assert load_settings(environ=variables).worker.metrics_host == "0.0.0.0"


def test_the_chart_runs_these_images_as_their_user() -> None:
    for manifest in render(values_of(CHART / "examples" / "laptop.yaml")):
        if manifest["kind"] in WORKLOADS:
            assert pod_of(manifest)["securityContext"]["runAsUser"] == 10001


def test_the_linters_find_nothing() -> None:
    assert chart_findings() == []
    linter = hadolint()
    if linter is None:
        pytest.skip("the Dockerfile was not linted: hadolint has no wheel for this machine")
    assert dockerfile_findings(linter) == []
