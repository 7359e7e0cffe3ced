"""The probe of attention backends, on this machine and with modules that stand in for xformers.

xformers is for CUDA and not installed here. What stands in for it is found by Python's own import, as it
would be.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers.models import attention_processor

from darkroom.inference.planning.memory_plan import Attention
from darkroom.inference.sdxl import SdxlDevice
from darkroom.inference.sdxl.denoise.attention import probe_attention
from darkroom.inference.sdxl.denoise.xformers_import import xformers_ops
from darkroom.inference.tiny import TinyModel
from tests.inference.painting import POSED, TOLERANCE, Oracle, distance, load, paint

pytestmark = pytest.mark.render

CPU = torch.device("cpu")
Operation = Callable[..., torch.Tensor]


class StandIn:
    """xformers' one operation, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_bias: torch.Tensor | None = None,
        op: object = None,
        scale: float | None = None,
    ) -> torch.Tensor:
        self.calls += 1
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_bias, scale=scale)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Operation], ModuleType]]:
    """Puts a package `xformers` with this operation where Python finds it."""

    def put(operation: Operation) -> ModuleType:
        package, ops = (ModuleType(name) for name in ("xformers", "xformers.ops"))
        for module in (package, ops):
            module.__spec__ = ModuleSpec(module.__name__, None)
            monkeypatch.setitem(sys.modules, module.__name__, module)
        ops.memory_efficient_attention = operation  # type: ignore[attr-defined]
        package.ops = ops  # type: ignore[attr-defined]
        xformers_ops.cache_clear()
        return package

    yield put
    xformers_ops.cache_clear()


def test_sdpa_is_run_and_timed_on_this_device() -> None:
    probe = probe_attention(CPU, torch.float32)
    assert probe.sdpa_ms is not None
    assert probe.sdpa_ms > 0
    assert probe.xformers_ms is None
    assert probe.says == ()


def test_a_device_without_a_kernel_is_told_and_raises_nothing() -> None:
    probe = probe_attention(torch.device("meta"), torch.float16)
    assert probe.sdpa_ms is None
    assert probe.says[0].startswith("torch's SDPA in linear memory does not run here")


def test_an_xformers_that_runs_is_timed(install: Callable[[Operation], ModuleType]) -> None:
    operation = StandIn()
    install(operation)
    probe = probe_attention(CPU, torch.float32)
    assert probe.xformers_ms is not None
    assert operation.calls > 1


def test_an_xformers_without_a_kernel_is_passed_over(install: Callable[[Operation], ModuleType]) -> None:
    """It imports: only running it says that it was built for another torch."""

    def missing(*_: Any, **__: Any) -> torch.Tensor:
        raise NotImplementedError("No operator found for `memory_efficient_attention_forward`")

    install(missing)
    probe = probe_attention(CPU, torch.float32)
    assert (probe.sdpa_ms is not None, probe.xformers_ms) == (True, None)
    assert "xformers does not run here: NotImplementedError: No operator found" in probe.says[0]


def test_an_xformers_that_gives_nonsense_is_passed_over(install: Callable[[Operation], ModuleType]) -> None:
    install(lambda query, *_: query * float("nan"))
    probe = probe_attention(CPU, torch.float32)
    assert probe.xformers_ms is None
    assert probe.says == ("xformers gives values that are not finite here.",)


def test_a_picture_rendered_with_xformers_is_the_pipelines(
    tiny: TinyModel,
    oracle: Oracle,
    shared_device: SdxlDevice,
    install: Callable[[Operation], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted, operation = oracle.paint(POSED), StandIn()
    # diffusers looked for it when it was imported.
    monkeypatch.setattr(attention_processor, "xformers", install(operation))
    plan = shared_device.plan
    device = load(tiny, plan=replace(plan, attention=Attention.XFORMERS))
    operation.calls = 0
    assert distance(paint(device, POSED), wanted) <= TOLERANCE
    assert operation.calls > 0


def test_a_torn_xformers_keeps_no_model_from_loading(tmp_path: Path) -> None:
    """diffusers imports whatever is installed under that name: in a process of its own, with a package that raises."""
    (tmp_path / "xformers").mkdir()
    (tmp_path / "xformers" / "__init__.py").touch()
    (tmp_path / "xformers" / "ops.py").write_text('raise OSError("libcudart.so.99: cannot open shared object file")')
    metadata = tmp_path / "xformers-0.0.35.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: xformers\nVersion: 0.0.35\n")
    program = (
        "import torch; from darkroom.inference.sdxl.denoise.attention import probe_attention;"
        "print(probe_attention(torch.device('cpu'), torch.float32))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{root}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "xformers_ms=None" in done.stdout
    assert "xformers cannot be imported (OSError: libcudart.so.99" in done.stdout
