"""Proves what can be told of the images without building them, which takes a docker engine: that was not done."""

from __future__ import annotations

import re
import tomllib

import pytest

from schemas.settings import load_settings
from tests.helm.chart import ROOT, WORKLOADS, pod_of, render, values_of
from tests.helm.lint import CHART, chart_findings, dockerfile_findings, hadolint

TEXT = (ROOT / "Dockerfile").read_text()
FINAL = ("gateway", "worker-cpu", "worker")


def stages() -> dict[str, str]:
    """Each stage's instructions, by name."""
    parts = re.split(r"(?m)^FROM (\S+) AS (\S+)$", TEXT)
    return {parts[place + 1]: f"FROM {parts[place]}\n{parts[place + 2]}" for place in range(1, len(parts), 3)}


def test_bases_are_pinned_to_a_version() -> None:
    names = set(stages())
    bases = {base for base in re.findall(r"(?m)^FROM (\S+)", TEXT) if base not in names}
    assert bases == {"ubuntu:24.04", "nvidia/cuda:13.0.1-base-ubuntu24.04"}


@pytest.mark.parametrize("name", FINAL)
def test_an_image_runs_as_nobody_and_says_what_it_is(name: str) -> None:
    stage = stages()[name]
    (user,) = re.findall(r"(?m)^USER (\S+)", stage)
    assert user == "10001:10001"
    assert stage.index("USER ") > stage.rindex("RUN ")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in stage
    assert "HEALTHCHECK" in stage
    assert 'ENTRYPOINT ["darkroom"]' in stage
    assert "pip install" not in stage, "only what a build stage installed is in an image"


def test_everything_installed_is_locked_by_hash_and_nothing_is_for_developers() -> None:
    installs = re.findall(r"uv pip install(?:[^\n]*\\\n)*[^\n]*", TEXT)
    assert len(installs) == 4
    for install in installs:
        assert "requirements.lock" in install
        assert "--verify-hashes" in install or "--no-deps" in install
    extras = set(re.findall(r"--extra (\S+)", TEXT))
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras == {"render", "gateway"} <= declared.keys()
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
