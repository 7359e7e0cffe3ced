"""What `darkroom doctor` says of the device and of the memory plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from darkroom import main
from darkroom.consumer.doctor.doctor import memory_advice
from darkroom.consumer.worker.machine import Machine, machine
from darkroom.schemas.settings import Settings, load_settings

GB = 10**9
NOWHERE = {"DARKROOM_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:9", "DARKROOM_S3__ENDPOINT": "http://127.0.0.1:9"}


def real(path: Path) -> Settings:
    return load_settings(overrides={"model.path": path}, environ=NOWHERE)


@pytest.mark.parametrize(
    ("memory_bytes", "advice"),
    [(8 * GB, "12 GB at the least"), (12_600_000_000, "from 16 GB on"), (16 * GB, None), (24 * GB, None)],
)
def test_small_devices_are_warned_of(tmp_path: Path, memory_bytes: int, advice: str | None) -> None:
    said = memory_advice(memory_bytes, real(tmp_path))
    assert said is None if advice is None else said is not None and advice in said


@pytest.mark.render
@pytest.mark.parametrize(("driver", "passed"), [("535.183.01", False), ("580.65.06", True)])
def test_a_driver_that_is_too_old_for_torch_s_cuda_is_named(
    monkeypatch: pytest.MonkeyPatch, driver: str, passed: bool
) -> None:
    """torch itself says no more than that there is no CUDA device."""
    import pynvml
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name, answer in {"nvmlInit": None, "nvmlShutdown": None, "nvmlSystemGetDriverVersion": driver}.items():
        monkeypatch.setattr(pynvml, name, lambda answer=answer: answer)
    env = {**NOWHERE, "DARKROOM_DEVICE": "auto"}
    device = json.loads(CliRunner().invoke(main, ["doctor", "--json"], env=env).stdout)["device"]
    assert device["passed"] is passed
    if not passed:
        assert device["says"] == "the NVIDIA driver 535.183.01 is older than torch's CUDA 13.2 needs"
        assert "Install driver 580 or newer" in device["remedy"]


def test_the_tiny_model_is_content_with_any_device() -> None:
    assert memory_advice(2 * GB, load_settings(environ=NOWHERE)) is None


@pytest.mark.render
def test_the_plan_and_the_attention_are_told_with_their_reasons() -> None:
    ended = CliRunner().invoke(main, ["doctor", "--json"], env=NOWHERE)
    checks = json.loads(ended.stdout)
    plan, attention = checks["plan"], checks["attention"]
    assert plan["passed"]
    assert plan["plan"]["layout"]["series"] == "none"
    assert plan["notes"] == plan["plan"]["reasons"] != []
    assert (attention["backend"], attention["xformers_ms"]) == ("sdpa", None)
    assert attention["sdpa_ms"] > 0


def test_a_device_without_a_plan_has_no_such_line() -> None:
    checks = simulated_checks()
    assert checks["model"]["passed"]
    assert "plan" not in checks
    assert "recipes" not in checks
    assert "callbacks" not in checks


@pytest.mark.parametrize(("text", "says"), [("[few]\nsteps = 4", "1 in "), ("[few]\nsteps = 0", "few: steps must be")])
def test_recipes_are_read_as_a_worker_reads_them(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "recipes.toml"
    file.write_text(text)
    found = simulated_checks(DARKROOM_MODEL__RECIPES_FILE=str(file))["recipes"]
    assert says in found["says"]
    assert found["passed"] is ("steps = 4" in text)
    assert found["passed"] or found["remedy"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[tenants.studio]\nsecrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]', "1 tenants in "),
        ("", "0 tenants in "),
        ("[tenants.studio]", "needs secrets"),
    ],
)
def test_callbacks_are_read_as_the_hooks_read_them(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "callbacks.toml"
    file.write_text(text)
    found = simulated_checks(DARKROOM_HOOKS__FILE=str(file))["callbacks"]
    assert says in found["says"]
    assert found["passed"] is ("whsec_" in text)
    assert found["passed"] or found["remedy"]


def simulated_checks(**environment: str) -> Any:
    env = {**NOWHERE, "DARKROOM_SIMULATED__STEP_MS": "0", **environment}
    return json.loads(CliRunner().invoke(main, ["doctor", "--json"], env=env).stdout)


@pytest.mark.parametrize(
    ("here", "advice"),
    [
        (Machine(8, 32 * GB, 50 * GB, 100 * GB), []),
        (Machine(4, 32 * GB, 50 * GB, 100 * GB), ["4 cores are fewer than 8 (12 recommended)"]),
        (Machine(16, 16 * GB, 20 * GB, 40 * GB), ["16 GB of memory are less than 32 GB", "40 GB of disk"]),
    ],
)
def test_what_a_machine_is_short_of_is_advised(here: Machine, advice: list[str]) -> None:
    said = here.advice()
    assert (said is None) == (advice == [])
    assert all(sentence in (said or "") for sentence in advice)


def test_a_containers_limits_count(tmp_path: Path) -> None:
    model = load_settings(environ=NOWHERE).model
    bare = machine(model, tmp_path)
    assert bare.cores >= 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    limited = machine(model, tmp_path)
    assert (limited.cores, limited.memory_bytes) == (0.5, 1_000_000)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    unbounded = machine(model, tmp_path)
    assert (unbounded.cores, unbounded.memory_bytes) == (bare.cores, bare.memory_bytes)


@pytest.mark.render
def test_refused_adapters_and_the_prediction_are_told(tmp_path: Path) -> None:
    (tmp_path / "ink drawing (v2).safetensors").write_bytes(b"torn")
    environment = {**NOWHERE, "DARKROOM_MODEL__ADAPTERS_PATH": str(tmp_path)}
    ended = CliRunner().invoke(main, ["doctor", "--json"], env=environment)
    checks = json.loads(ended.stdout)
    model, adapters = checks["model"], checks["adapters"]
    assert model["passed"], "a worker starts without it"
    assert model["prediction"]["kind"] == "epsilon"
    assert model["prediction"]["timestep_spacing"] == "leading"
    assert not model["prediction"]["zero_terminal_snr"]
    assert any(note.startswith("It predicts epsilon") for note in model["notes"])
    assert not adapters["passed"]
    assert "ink drawing (v2)" in adapters["says"]
    assert "is torn" in adapters["refused"]["ink drawing (v2)"]
    assert adapters["remedy"]
