"""Decides whether a build of torch has code for a GPU, and whether a driver is new enough for its CUDA.

Compute capabilities are `(major, minor)`. A build lists what it was compiled for as `torch.cuda.get_arch_list()` does:
`sm_86` is machine code, which runs on its own major capability from that minor one on; `compute_90` is PTX, which a
driver compiles for any later one; a letter at the end ties code to exactly that capability. Source: NVIDIA, "CUDA C++
Programming Guide", binary and PTX compatibility.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

Capability = tuple[int, int]

_ARCHITECTURE: Final = re.compile(r"(sm|compute)_(\d+)(\d)([a-z]?)")
DRIVER_MIN_BY_CUDA_MAJOR: Final = {11: 450, 12: 525, 13: 580}
"""The oldest Linux driver, by its first number, that serves any minor release of a CUDA. Source: NVIDIA, "CUDA
Compatibility", minor version compatibility."""
OLDER_BUILD: Final = "torch 2.14 for CUDA 12.6, the last release with code for capabilities 5.0 to 7.0"
"""Source: PyTorch's developer forum, 2026-09-04: no wheels for CUDA 12 from 2.15 on."""


def is_served(capability: Capability, architectures: Iterable[str]) -> bool:
    """Return whether code for these architectures runs on a GPU of this capability. Unknown words count for nothing."""
    return any(_runs(capability, found) for one in architectures if (found := _ARCHITECTURE.fullmatch(one)))


def _runs(capability: Capability, architecture: re.Match[str]) -> bool:
    built = (int(architecture[2]), int(architecture[3]))
    if architecture[4] == "a":
        return capability == built
    if architecture[1] == "compute":
        return capability >= built
    return capability[0] == built[0] and capability[1] >= built[1]


def unserved(gpu: str, capability: Capability, torch_version: str, architectures: Iterable[str]) -> str:
    """Return the sentence for a GPU that a build of torch has no code for, with the remedy."""
    return (
        f"{gpu} has compute capability {capability[0]}.{capability[1]}, and torch {torch_version} has code for "
        f"{', '.join(architectures)} only: take another GPU, or build the worker's image with {OLDER_BUILD} (not tried "
        "here)."
    )


def driver_needed(cuda_version: str | None) -> int | None:
    """Return the least driver for torch's `version.cuda`, by its first number; None for a CPU build or unknown CUDA."""
    return None if cuda_version is None else DRIVER_MIN_BY_CUDA_MAJOR.get(int(cuda_version.partition(".")[0]))
