"""Proves what can be proven of `make bench-gpu` without a GPU: that it runs from end to end, that a smoke run says what
it is, that nothing is written where nothing was measured, and that gaps and tables come out right.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from darkroom.inference.sdxl.loading.components import load_components
from darkroom.inference.sdxl.loading.sources import ModelFiles
from darkroom.inference.tiny import TinyModel, ensure_tiny_model
from tests.bench.gpu.__main__ import main
from tests.bench.gpu.full_size import predict_unit_noise, write_folders
from tests.bench.gpu.gaps import busy_spans, gaps_between
from tests.bench.gpu.page import page
from tests.bench.gpu.ways import WAYS

pytestmark = pytest.mark.render


def test_a_smoke_run_goes_through_all_of_it_and_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = ["--tiny", "--device", "cpu", "--steps", "2", "--batches", "2", "--compile-backend", "eager"]
    assert main([*asked, "--out", str(tmp_path / "out")]) == 0
    figures = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [(run["side"], run["mode"]) for run in figures["runs"]] == [
        ("ours", "eager"),
        ("pipeline", "eager"),
        ("ours", "compiled"),
        ("pipeline", "compiled"),
    ]
    assert [one["way"] for one in figures["ways"]] == [way.name for way in WAYS]
    by_way = {one["way"]: one for one in figures["ways"]}
    assert by_way["exact"]["psnr"] == 100.0
    assert 20 < by_way["economy"]["psnr"] < 100, "nearly the same"
    assert by_way["4 steps without guidance, lcm"]["psnr"] < by_way["economy"]["psnr"], "another picture"
    assert figures["left_out"] == []
    assert figures["parity"]["kept"]
    assert figures["parity"]["other"] > 0.5
    told = (tmp_path / "out" / "gpu.md").read_text()
    assert "smoke run" in told.splitlines()[0]
    assert "No figure below is a measurement" in told
    assert "Not measured: there was no GPU" in told
    for way in WAYS:
        assert f"| {way.name} |" in told
    assert told in capsys.readouterr().out


def test_without_a_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["--out", str(tmp_path / "out")]) == 0
    assert "No GPU is at hand" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_cpu_is_not_measured_at_full_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path / "out")]) == 2
    assert "--tiny" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_what_the_time_does_not_hold_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = ["--tiny", "--device", "cpu", "--steps", "2", "--batches", "1", "--modes", "eager", "--minutes", "0"]
    assert main([*asked, "--out", str(tmp_path / "out")]) == 0
    told = (tmp_path / "out" / "gpu.md").read_text()
    assert "Left out, because the time was up: ours, eager; pipeline, eager." in told
    assert "| economy |" in told


def test_gaps_are_what_no_stream_filled() -> None:
    trace = {
        "traceEvents": [
            {"cat": "kernel", "ts": 3000.0, "dur": 1000.0},
            {"cat": "kernel", "ts": 0.0, "dur": 1000.0},
            {"cat": "gpu_memcpy", "ts": 500.0, "dur": 1000.0},
            {"cat": "kernel", "ts": 200.0, "dur": 100.0},
            {"cat": "cuda_runtime", "ts": 1500.0, "dur": 1500.0},
            {"name": "process_name"},
            {"cat": "gpu_memset", "ts": 4500.0, "dur": 500.0},
        ]
    }
    gaps = gaps_between(busy_spans(trace))
    assert gaps is not None
    assert (gaps.idle_ms, gaps.longest_ms) == (2.0, 1.5)
    assert gaps.busy_share == pytest.approx(0.6)
    assert gaps_between([]) is None


def _figures(**changes: Any) -> dict[str, Any]:
    run = {"mode": "eager", "batch": 4, "steps": 20, "seconds": 9.0, "peak_bytes": 12 * 2**30}
    return {
        "smoke": False,
        "at": "2027-01-31T12:00:00Z",
        "torch": "2.15.0",
        "device": "cuda:0",
        "device_name": "A card",
        "dtype": "float16",
        "side": 1024,
        "runs": [{**run, "side": "ours", "gpu_seconds": 8.0}, {**run, "side": "pipeline", "gpu_seconds": 10.0}],
        "gaps": [
            {"side": "ours", "mode": "eager", "batch": 4, "busy_share": 0.98, "idle_ms_a_step": 1.5, "longest_ms": 0.7}
        ],
        "ways": [
            {**run, "way": "exact", "exact": "exact", "gpu_seconds": 8.0, "psnr": 100.0, "psnr_min": 100.0},
            {**run, "way": "economy", "exact": "exact", "gpu_seconds": 4.0, "psnr": 45.3, "psnr_min": 38.2},
        ],
        "left_out": [],
        "parity": {"steps": 20, "relative_rms": 0.01, "other": 1.4, "tolerance": 0.05, "kept": True},
        **changes,
    }


def test_the_report_of_a_gpu_is_by_its_own_clock_an_image() -> None:
    told = "\n".join(page(_figures()))
    assert "| eager | 4 | 20 | 2.000 | 2.500 | 1.25 | 12.0 | 12.0 |" in told
    assert "| ours | eager | 4 | 98.0% | 1.50 | 0.70 |" in told
    assert "| exact | 2.000 | 1.00 | - | - |" in told
    assert "| economy | 1.000 | 2.00 | 45.3 | 38.2 |" in told
    assert "MLPerf" in told
    assert "smoke" not in told
    assert "NOT KEPT" not in told
    missed = {**_figures()["parity"], "kept": False}
    assert "NOT KEPT" in "\n".join(page(_figures(parity=missed)))


@torch.inference_mode()
def test_folders_of_drawn_parts_load_and_predict_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny, cpu = ensure_tiny_model(), torch.device("cpu")
    torch.manual_seed(1)
    parts = _Parts(tiny)
    before = _spread(parts.unet)
    predict_unit_noise(parts.unet, cpu, torch.float32)
    assert abs(_spread(parts.unet) - 1) < 0.3 < abs(before - 1)
    written = write_folders(tmp_path / "written", parts, {"timestep_spacing": "leading", "steps_offset": 1})
    loaded = load_components(
        ModelFiles(written.path, written.controlnet_path), name="written", device=cpu, dtype=torch.float32
    )
    assert torch.equal(loaded.unet.conv_out.weight, parts.unet.conv_out.weight)
    assert list(loaded.controlnets) == ["controlnet"]


class _Parts:
    """The tiny model's parts, in the shape of `darkroom.inference.sdxl.loading.full_size.FullSize`."""

    def __init__(self, tiny: TinyModel) -> None:
        import diffusers
        import transformers

        library: Any = diffusers
        self.unet = library.UNet2DConditionModel.from_pretrained(tiny.path, subfolder="unet")
        self.unet.conv_out.weight.mul_(0.1)
        self.vae = library.AutoencoderKL.from_pretrained(tiny.path, subfolder="vae")
        self.controlnet = library.ControlNetModel.from_pretrained(tiny.controlnet_path)
        self.text_encoders = (
            transformers.CLIPTextModel.from_pretrained(tiny.path / "text_encoder"),
            transformers.CLIPTextModelWithProjection.from_pretrained(tiny.path / "text_encoder_2"),
        )


def _spread(unet: Any) -> float:
    predicted = unet(
        torch.randn(1, 4, 64, 64),
        torch.tensor([500.0]),
        encoder_hidden_states=torch.randn(1, 77, 64),
        added_cond_kwargs={"text_embeds": torch.randn(1, 32), "time_ids": torch.full((1, 6), 512.0)},
        return_dict=False,
    )[0]
    return float(predicted.std())
