"""Proves which GPUs the pinned build of torch serves, against NVIDIA's rules and the build itself."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from darkroom.consumer.planner import gpus
from darkroom.consumer.planner.gpus import Catalogue
from darkroom.consumer.planner.load import steady
from darkroom.consumer.planner.search import answer
from darkroom.inference.planning.capability import Capability, driver_needed, is_served
from darkroom.inference.types import ModelError
from tests.consumer.planner.test_search import question

BUILT = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")


@pytest.mark.parametrize(
    ("capability", "built", "served"),
    [
        ((7, 0), BUILT, False),  # V100
        ((7, 5), BUILT, True),  # T4
        ((8, 6), BUILT, True),
        ((8, 9), BUILT, True),  # L4: code for 8.6 runs
        ((9, 0), BUILT, True),
        ((10, 3), BUILT, True),
        ((11, 0), BUILT, False),
        ((12, 1), BUILT, True),
        ((8, 0), ("sm_86",), False),
        ((9, 0), ("sm_90a",), True),
        ((10, 3), ("sm_100a",), False),
        ((10, 3), ("sm_100f",), True),
        ((12, 0), ("compute_90",), True),
        ((8, 9), ("compute_90",), False),
        ((7, 5), (), False),
        ((7, 5), ("gfx90a",), False),
    ],
)
def test_code_runs_where_nvidia_says(capability: Capability, built: tuple[str, ...], served: bool) -> None:
    assert is_served(capability, built) is served


@pytest.mark.parametrize(("cuda", "driver"), [("13.2", 580), ("12.6", 525), ("99.0", None), (None, None)])
def test_a_cuda_needs_a_driver(cuda: str | None, driver: int | None) -> None:
    assert driver_needed(cuda) == driver


@pytest.mark.render
def test_the_planner_s_build_is_the_installed_one() -> None:
    import torch

    build = tomllib.loads(Path(gpus.__file__).with_name("gpus.toml").read_text())["build"]
    assert torch.__version__.partition("+")[0] == build["torch"]
    if torch.version.cuda is not None:  # a CPU build says nothing of the others
        assert (torch.version.cuda, torch.cuda.get_arch_list()) == (build["cuda"], build["architectures"])


def test_no_fleet_is_planned_of_gpus_that_the_build_does_not_serve() -> None:
    found = answer(question(steady(1.0), 60.0), Catalogue().machine("p3.2xlarge", "spot"))
    assert found.figures is None
    assert found.refusal is not None
    assert "V100 has compute capability 7.0, and torch 2.15.0 for CUDA 13.2" in found.refusal
    assert "torch 2.14" in found.refusal
    assert all(
        (Catalogue().machine(name, "on_demand").unserved is None) == (name != "p3.2xlarge")
        for name in Catalogue().names
    )


@pytest.mark.render
@pytest.mark.parametrize("capability", [(7, 0), (8, 9)])
def test_a_worker_on_such_a_gpu_does_not_start(monkeypatch: pytest.MonkeyPatch, capability: Capability) -> None:
    import torch

    from darkroom.inference.sdxl.loading.placement import require_served

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla V100-SXM2-16GB")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(BUILT))
    require_served(torch.device("cpu"))
    if capability == (8, 9):
        require_served(torch.device("cuda", 0))
        return
    with pytest.raises(ModelError, match=r"Tesla V100-SXM2-16GB has compute capability 7\.0.*another GPU"):
        require_served(torch.device("cuda", 0))
