"""Measures what this process may use of its machine: cores, memory and disk, a container's limits counted in.

The minimums are those of the deployment guide that the product follows, for SDXL with a ControlNet: 8 cores, 32 GB of
memory, 100 GB of disk for models and caches. Recommended are 12 cores and 64 GB.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from darkroom.consumer.weights.usage import cache_folder, disk_of
from darkroom.schemas.settings import ModelSettings

CORES_MIN: Final = 8
CORES_RECOMMENDED: Final = 12
MEMORY_BYTES_MIN: Final = 32 * 10**9
MEMORY_BYTES_RECOMMENDED: Final = 64 * 10**9
DISK_BYTES_MIN: Final = 100 * 10**9
_CGROUP: Final = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Machine:
    """Cores, bytes of memory, and bytes of the disk that models are kept on."""

    cores: float
    memory_bytes: int
    disk_free_bytes: int
    disk_bytes: int

    def advice(self) -> str | None:
        """Return what a worker with SDXL would want beside this; None where there is enough of everything."""
        short = []
        if self.cores < CORES_MIN:
            short.append(f"{self.cores:g} cores are fewer than {CORES_MIN} ({CORES_RECOMMENDED} recommended)")
        if self.memory_bytes < MEMORY_BYTES_MIN:
            short.append(f"{_gb(self.memory_bytes)} of memory are less than 32 GB (64 GB recommended)")
        if self.disk_bytes < DISK_BYTES_MIN:
            short.append(f"{_gb(self.disk_bytes)} of disk for models are less than 100 GB")
        return f"SDXL with a ControlNet wants more: {'; '.join(short)}." if short else None


def machine(model: ModelSettings, cgroup: Path = _CGROUP) -> Machine:
    """As this process sees it. `cgroup` is where the container's limits are (cgroup v2)."""
    free, total = disk_of(cache_folder(model))
    memory = psutil.virtual_memory().total
    limit = _limit(cgroup / "memory.max")
    return Machine(
        cores=min(_cores(), _quota(cgroup / "cpu.max") or float("inf")),
        memory_bytes=min(memory, limit) if limit is not None else memory,
        disk_free_bytes=free,
        disk_bytes=total,
    )


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def _quota(file: Path) -> float | None:
    """`cpu.max` is "quota period" in microseconds, or "max period" (Linux, cgroup-v2.rst)."""
    words = _read(file).split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def _limit(file: Path) -> int | None:
    said = _read(file).strip()
    return int(said) if said.isdecimal() else None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _gb(size: int) -> str:
    return f"{size / 10**9:.0f} GB"
