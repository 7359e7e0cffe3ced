"""Tells running out of memory from every other error.

torch has an exception of its own for a GPU's memory; on a CPU, and inside cuDNN and cuBLAS, the same thing is a
`RuntimeError` that only its text gives away.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from inference.contract import FaultKind, RenderFault

_MEMORY_MESSAGES: Final = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that the device or the host has no memory left for what was tried."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MEMORY_MESSAGES)


@contextmanager
def memory_faults(doing: str) -> Iterator[None]:
    """Turn running out of memory while `doing` something into `RenderFault(BATCH_MEMORY, "out_of_memory")`.

    Everything else passes through. What the failed frames held is let go first, because an exception keeps its
    frames alive and with them the very tensors that did not fit.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise RenderFault(
            FaultKind.BATCH_MEMORY, "out_of_memory", f"The device ran out of memory while {doing}: {_first_line(error)}"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
