"""Times a call on a device that is idle before and after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def timed(device: torch.device, call: Callable[[], object]) -> dict[str, float | None]:
    """Seconds by the clock; on a GPU also by its events, and its peak memory. The device is idle before and after."""
    if device.type != "cuda":
        began = time.perf_counter()
        call()
        return {"seconds": time.perf_counter() - began, "gpu_seconds": None, "peak_bytes": None}
    make: Any = torch.cuda.Event
    start, end = make(enable_timing=True), make(enable_timing=True)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    start.record()
    call()
    # Lanes have streams of their own: the end is when all of them are done.
    torch.cuda.synchronize(device)
    end.record()
    torch.cuda.synchronize(device)
    return {
        "seconds": time.perf_counter() - began,
        "gpu_seconds": start.elapsed_time(end) / 1000,
        "peak_bytes": torch.cuda.max_memory_allocated(device),
    }
