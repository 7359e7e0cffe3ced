"""Reads the share of the last sampling period in which a GPU ran kernels, from NVML: the figure of `nvidia-smi`.

Other processes' kernels count too, and a small kernel counts like a large one. So the figure accompanies the busy share
that the worker measures itself, and never replaces it.
"""

from __future__ import annotations

import functools

import structlog

log = structlog.get_logger(__name__)


def gpu_utilization(device: str) -> float | None:
    """Return 0 to 1 for a CUDA device, by its name (`cuda:1`); None for other devices and if NVML does not answer."""
    if not device.startswith("cuda"):
        return None
    import torch  # already imported by the code that loaded a model onto such a device

    try:
        return torch.cuda.utilization(torch.device(device)) / 100
    except Exception as error:  # NVML's errors have a base class of their own, and a metric must not fail the worker
        _told(f"{type(error).__name__}: {error}")
        return None


@functools.cache
def _told(said: str) -> None:
    """Log each reason once: it would otherwise be repeated at every scrape."""
    log.warning("the GPU's utilization is not known", error=said)
