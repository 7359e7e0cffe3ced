"""Proves the pure parts: probes over time, the module that builds Kubernetes, where programs are found, the verdict."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.autoscale import binaries
from tests.autoscale.api import ApiError
from tests.autoscale.binaries import BUILT, CLIENTS, KEDA, KUBERNETES, Binaries, Clients, Missing
from tests.autoscale.build import PROGRAMS
from tests.autoscale.go_module import local_module, staged_version, tools_file
from tests.autoscale.plane import Plane, PlaneError
from tests.autoscale.pod_spec import Place, Unsupported, expanded, files_of, port_of
from tests.autoscale.probes import Probes
from tests.autoscale.report import in_words

PROBE = {"httpGet": {"port": 1}, "periodSeconds": 10}
CONTAINER = {
    "startupProbe": {**PROBE, "failureThreshold": 3},
    "readinessProbe": {**PROBE, "failureThreshold": 2},
    "livenessProbe": {**PROBE, "failureThreshold": 2},
}


def test_nothing_but_the_startup_probe_is_asked_before_it_succeeded() -> None:
    probes = Probes.of(CONTAINER, now=0.0)
    assert (probes.started, probes.ready) == (False, False)
    assert probes.due(0.0) == ["startup"]
    probes.told("startup", False, now=0.0)
    assert probes.due(9.9) == []
    assert probes.due(10.0) == ["startup"]
    probes.told("startup", True, now=10.0)
    assert (probes.started, probes.ready) == (True, False)
    assert probes.due(10.0) == ["readiness", "liveness"]
    probes.told("readiness", True, now=10.0)
    assert probes.ready


def test_a_startup_that_takes_too_long_must_die() -> None:
    probes = Probes.of(CONTAINER, now=0.0)
    for look in (0.0, 10.0):
        probes.told("startup", False, now=look)
    assert not probes.must_die
    probes.told("startup", False, now=20.0)
    assert probes.must_die


def test_one_bad_answer_changes_nothing_two_in_a_row_do() -> None:
    probes = Probes.of({key: value for key, value in CONTAINER.items() if key != "startupProbe"}, now=0.0)
    assert probes.started
    for answer, ready in ((True, True), (False, True), (True, True), (False, True), (False, False)):
        probes.told("readiness", answer, now=0.0)
        assert probes.ready is ready
    for answer, dies in ((False, False), (True, False), (False, False), (False, True)):
        probes.told("liveness", answer, now=0.0)
        assert probes.must_die is dies


def test_a_container_without_probes_is_ready_at_once() -> None:
    probes = Probes.of({}, now=0.0)
    assert (probes.started, probes.ready, probes.due(1e9)) == (True, True, [])


def test_paths_move_with_their_mount_and_only_then() -> None:
    place = Place("127.9.0.1", {"/tmp": Path("/pod/tmp"), "/tmp/deep": Path("/pod/deep")})
    assert place.moved("/tmp/deep/a") == "/pod/deep/a"
    assert place.moved("/tmp") == "/pod/tmp"
    assert place.moved("/tmpfiles") == "/tmpfiles"
    assert place.moved("http://0.0.0.0/tmp") == "http://0.0.0.0/tmp"
    assert place.moved("0.0.0.0") == "127.9.0.1"


def test_references_are_replaced_as_kubernetes_does() -> None:
    assert expanded("$(A) $$(A) $(B) $A", {"A": "1"}) == "1 $(A) $(B) $A"


def test_a_volume_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(Unsupported, match="claim"):
        files_of({}, {"name": "claim", "persistentVolumeClaim": {}}, lambda *_: None, lambda _: "")
    with pytest.raises(Unsupported, match="no port named web"):
        port_of({"name": "c", "ports": []}, "web")


def test_a_module_that_names_kubernetes_parts_by_their_published_versions() -> None:
    original = (
        "module k8s.io/kubernetes\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/api v0.0.0\n\tk8s.io/klog/v2 v2.140.0\n)\n\n"
        "tool (\n\tgithub.com/x/y\n)\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n)\n"
    )
    made = local_module("plane", original, ("k8s.io/kubernetes", "v1.36.3"), staging=staged_version("v1.36.3"))
    assert made.startswith("module plane\n")
    assert "k8s.io/api v0.36.3" in made
    assert "k8s.io/klog/v2 v2.140.0" in made
    assert "k8s.io/api => k8s.io/api v0.36.3" in made
    assert "require k8s.io/kubernetes v1.36.3" in made
    assert not re.search(r"v0\.0\.0|staging|tool|replace \(\s*\)", made)


def test_a_module_keeps_the_replacements_of_the_one_that_it_builds() -> None:
    original = "module github.com/kedacore/keda/v2\n\nreplace a/b => a/c v1.2.3\n"
    made = local_module("keda", original, ("github.com/kedacore/keda/v2", "v2.21.0"))
    assert "replace a/b => a/c v1.2.3" in made
    assert made.endswith("require github.com/kedacore/keda/v2 v2.21.0\n")
    assert '_ "a/cmd/x"' in tools_file(["a/cmd/x"])


def test_helm_takes_an_absent_cluster_for_a_kubernetes_that_the_chart_is_for() -> None:
    """Its own default is 1.20, which the chart's `kubeVersion` refuses."""
    flags = next(program.flags for program in PROGRAMS if program.name == "helm")
    minors = set(re.findall(r"chartutil\.k8sVersionMinor=(\d+)", flags))
    assert minors == {KUBERNETES.split(".")[1]}
    assert int(minors.pop()) >= 30


def test_every_program_that_is_looked_for_is_built() -> None:
    assert sorted(program.name for program in PROGRAMS) == sorted((*BUILT, *CLIENTS))


def _program(place: Path) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("#!/bin/sh\n")
    place.chmod(0o755)
    return place


def test_programs_are_found_in_the_cache_then_in_an_unpacked_package_then_on_the_path(tmp_path: Path) -> None:
    root, path = tmp_path / "cache", tmp_path / "path"
    for name in BUILT:
        _program(root / "bin" / name)
    with pytest.raises(Missing, match=r"not run: etcd, KEDA's resource definitions not found.*make control-plane"):
        binaries.find(root, str(path))
    (root / "crds" / f"keda-{KEDA}").mkdir(parents=True)
    (root / "crds" / f"keda-{KEDA}" / "one.yaml").touch()
    on_path = _program(path / "etcd")
    assert binaries.find(root, str(path)).etcd == on_path
    unpacked = _program(root / "deb" / "usr" / "bin" / "etcd")
    assert binaries.find(root, str(path)).etcd == unpacked
    (root / "bin" / "helm").chmod(0o644)
    with pytest.raises(Missing, match="helm not found"):
        binaries.find(root, str(path))


def test_who_has_no_kubectl_is_told_so_and_can_prove_the_autoscaling_all_the_same(tmp_path: Path) -> None:
    mc = _program(tmp_path / "bin" / "mc")
    with pytest.raises(Missing, match=r"operations were not run: kubectl not found.*make control-plane"):
        binaries.find_clients(tmp_path, "")
    kubectl = _program(tmp_path / "bin" / "kubectl")
    assert binaries.find_clients(tmp_path, "") == Clients(kubectl, mc)


def test_a_part_that_ends_before_its_time_is_named_in_place_of_what_followed_from_it(tmp_path: Path) -> None:
    ends = _program(tmp_path / "ends")
    ends.write_text("#!/bin/sh\necho 'no space left on device'\n")
    programs = Binaries(ends, ends, ends, ends, ends, ends, tmp_path)

    def run() -> None:
        with Plane(programs, tmp_path / "plane") as plane:
            with pytest.raises(PlaneError, match="ended while it started"):
                plane.start_api()
            raise ExceptionGroup("of a group of tasks", [ApiError(0, "no answer")])

    with pytest.raises(PlaneError, match=r"(?s)etcd.* ended while the proof ran.*run this again.*no space left"):
        run()


def test_errors_of_several_tasks_are_lines_without_a_traceback() -> None:
    group = ExceptionGroup("x", [ApiError(0, "no answer"), ExceptionGroup("y", [ApiError(0, "no answer")])])
    assert in_words(group) == "Error: ApiError: 0: no answer"


def test_the_cache_folder_can_be_set() -> None:
    assert binaries.folder({binaries.VARIABLE: "/big/disk"}) == Path("/big/disk")
    assert binaries.folder({}).name == "control-plane"
