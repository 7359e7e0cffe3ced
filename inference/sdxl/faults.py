"""Tells out-of-memory errors and a lost device from all other errors.

torch has an exception of its own for a GPU's memory. On a CPU, and inside cuDNN and cuBLAS, the same condition is a
`RuntimeError` that only its text identifies. Any other error that CUDA itself reports is sticky: it may have been
caused by work launched long before, and every further call fails with it until the process ends.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from darkroom.inference.types import DeviceLost, FaultKind, RenderFault

_MEMORY_MESSAGES: Final = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
)
_LOST_MESSAGES: Final = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Return true if `error` means that the device or the host ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MEMORY_MESSAGES)


def is_device_lost(error: BaseException) -> bool:
    """Return true if `error` means that a GPU's context is gone."""
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _LOST_MESSAGES)


@contextmanager
def device_faults(doing: str) -> Iterator[None]:
    """Translate an out-of-memory error while `doing` something to `RenderFault(BATCH_MEMORY, "out_of_memory")`, and a
    GPU's own errors to `DeviceLost`.

    All other errors pass through. After running out of memory, the failed frames are cleared first, because an
    exception keeps its frames alive and with them the very tensors that did not fit.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            traceback.clear_frames(error.__traceback__)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise RenderFault(
                FaultKind.BATCH_MEMORY,
                "out_of_memory",
                f"The device ran out of memory while {doing}: {_first_line(error)}",
            ) from error
        if is_device_lost(error):
            raise DeviceLost(
                f"The GPU stopped working while {doing}: {_first_line(error)}. This worker ends: restart it."
            ) from error
        raise


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
