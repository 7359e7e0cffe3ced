"""What a process and all that it started take of the machine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a whole tree of processes."""

    cpu_s: float
    memory_mib: float
    """Resident, with what processes share counted once for each: an upper bound where there are several."""
    processes: int


def usage(pid: int) -> Usage:
    """Now. CPU seconds since each process's start, and of children that have ended where they were waited for."""
    cpu_s, memory, count = 0.0, 0, 0
    for process in tree(pid):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            memory += process.memory_info().rss
            cpu_s += times.user + times.system + times.children_user + times.children_system
            count += 1
    return Usage(cpu_s, memory / 2**20, count)


def tree(pid: int) -> list[psutil.Process]:
    """The process and its descendants; none where it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def kill_tree(pid: int) -> None:
    """SIGKILL to all of it, as a container that runs out of memory ends, and wait until it is gone."""
    processes = tree(pid)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)
