"""How long a GPU had nothing to do, from a profiler's trace of its kernels."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_ON_THE_GPU = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of the trace's events that are work of the GPU itself."""


@dataclass(frozen=True)
class Gaps:
    """From the first kernel's start to the last one's end."""

    busy_share: float
    idle_ms: float
    """All gaps together."""
    longest_ms: float


def gaps_of(device: torch.device, call: Callable[[], object]) -> Gaps | None:
    """Profile a call; None where there is no GPU to be idle."""
    if device.type != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        call()
        torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return gaps_between(busy_spans(json.loads(trace.read_text())))


def busy_spans(trace: dict[str, Any]) -> list[tuple[float, float]]:
    """(start, end) in microseconds of all work of the GPU in a Chrome trace. Work on several streams overlaps."""
    return [
        (float(event["ts"]), float(event["ts"]) + float(event["dur"]))
        for event in trace["traceEvents"]
        if event.get("cat") in _ON_THE_GPU
    ]


def gaps_between(spans: Iterable[tuple[float, float]]) -> Gaps | None:
    """What is left between spans, in microseconds; None without any."""
    ordered = sorted(spans)
    if not ordered:
        return None
    began, ended = ordered[0]
    gaps = [0.0]
    for start, end in ordered:
        if start > ended:
            gaps.append(start - ended)
        ended = max(ended, end)
    idle = sum(gaps)
    return Gaps(busy_share=1 - idle / (ended - began), idle_ms=idle / 1000, longest_ms=max(gaps) / 1000)
