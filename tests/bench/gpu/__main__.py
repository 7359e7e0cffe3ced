"""`make bench-gpu`: SDXL and a ControlNet at full size with random weights, our engine beside diffusers' pipeline.

Nothing is downloaded: the configurations are known and the weights are drawn, so pictures mean nothing and times mean
what they always mean. Both sides load the same folders, paint the same requests (1024 x 1024, a pose, guided) with the
same numbers on the same device, and their latents are held against each other. A lent GPU has ten minutes, start-up and
weights included: exact and cheaper pictures come first, then parity, then both sides eager and compiled, and what the
time does not hold is named. Where there is no GPU nothing is measured. `--tiny` runs all of it on the tiny model, to
see that it runs: a smoke run and no measurement.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from darkroom.inference.tiny import TinyModel, ensure_tiny_model
from tests.bench.gpu import page
from tests.bench.gpu.measure import Plan, measure

FOLDER_BYTES = 12 * 2**30
"""What the full-size folders take in half precision, rounded up."""


def main(arguments: list[str] | None = None) -> int:
    asked = _arguments().parse_args(arguments)
    device = torch.device(asked.device or "cuda:0")
    if device.type == "cuda" and not torch.cuda.is_available():
        print("No GPU is at hand (torch sees none), so nothing is measured and nothing is written.")
        return 0
    if device.type == "cpu" and not asked.tiny:
        print("At full size only a GPU is measured: leave --device out, or add --tiny for a smoke run on a CPU.")
        return 2
    plan = Plan(
        device=device,
        dtype=asked.dtype or ("float16" if device.type == "cuda" else "float32"),
        side=64 if asked.tiny else 1024,
        steps=tuple(asked.steps),
        batches=tuple(asked.batches),
        modes=tuple(asked.modes),
        compile_backend=asked.compile_backend,
        minutes=asked.minutes,
    )
    with tempfile.TemporaryDirectory(prefix="darkroom-bench-gpu-", dir=asked.folder) as folder:
        figures = {
            "smoke": asked.tiny,
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            **_machine(device),
            **plan.told(),
            **measure(_model(asked.tiny, plan, Path(folder)), plan),
        }
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "gpu.json").write_text(json.dumps(figures, indent=2) + "\n")
    (asked.out / "gpu.md").write_text("\n".join(page.page(figures)) + "\n")
    print((asked.out / "gpu.md").read_text())
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="where gpu.md and gpu.json go")
    parser.add_argument("--device", help="a torch device; the first GPU when not given")
    parser.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], help="float16 on a GPU when not given")
    parser.add_argument("--steps", type=int, nargs="+", default=[25])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--modes", nargs="+", choices=["eager", "compiled"], default=["eager", "compiled"])
    parser.add_argument("--compile-backend", default="inductor", help="torch.compile's, for both sides")
    parser.add_argument("--minutes", type=float, default=7.0, help="of measuring, after which nothing more is begun")
    parser.add_argument("--folder", type=Path, help="where 12 GB of weights may lie meanwhile; the system's own place")
    parser.add_argument("--tiny", action="store_true", help="a smoke run on the tiny model")
    return parser


def _model(is_tiny: bool, plan: Plan, folder: Path) -> TinyModel:
    if is_tiny:
        return ensure_tiny_model()
    free = shutil.disk_usage(folder).free
    if free < FOLDER_BYTES:
        raise SystemExit(
            f"{folder} has {free / 2**30:.1f} GiB free and the weights need {FOLDER_BYTES / 2**30:.0f}: "
            "name another place with --folder."
        )
    from tests.bench.gpu.full_size import write_full_size

    model = write_full_size(folder, plan.device, getattr(torch, plan.dtype))
    torch.cuda.empty_cache()
    return model


def _machine(device: torch.device) -> dict[str, Any]:
    told: dict[str, Any] = {
        "torch": torch.__version__,
        "device": str(device),
        "device_name": platform.processor() or "CPU",
    }
    if device.type == "cuda":
        properties: Any = torch.cuda.get_device_properties(device)
        told |= {
            "device_name": properties.name,
            "device_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return told


if __name__ == "__main__":
    raise SystemExit(main())
