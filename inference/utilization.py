"""How much of the last moment a GPU ran kernels in, as NVML tells it: what `nvidia-smi` shows.

Other processes' kernels count too, and one small kernel counts like a large one. So it stands beside the busy share,
which the worker measures itself, and replaces it nowhere.
"""

from __future__ import annotations

import functools

import structlog

log = structlog.get_logger(__name__)


def gpu_utilization(device: str) -> float | None:
    """0 to 1 for a CUDA device, by its name (`cuda:1`); None for other devices, and where NVML does not answer."""
    if not device.startswith("cuda"):
        return None
    import torch  # loaded long before by whoever has a model on such a device

    try:
        return torch.cuda.utilization(torch.device(device)) / 100
    except Exception as error:  # NVML's errors have a base of their own, and a metric fails no worker
        _told(f"{type(error).__name__}: {error}")
        return None


@functools.cache
def _told(said: str) -> None:
    """Once for each reason: it would be said at every scrape."""
    log.warning("the GPU's utilization is not known", error=said)
