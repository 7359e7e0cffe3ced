"""How soon the command line answers, and that what does not render loads no torch."""

from __future__ import annotations

import subprocess
import sys
import time

RUNS = 7


def start_up() -> dict[str, float]:
    """The fastest of some runs, in seconds: noise only ever adds."""
    return {
        "help_seconds": _fastest("-m", "darkroom", "--help"),
        "send_help_seconds": _fastest("-m", "darkroom", "send", "--help"),
        "audit_help_seconds": _fastest("-m", "darkroom", "audit", "--help"),
        "bare_python_seconds": _fastest("-c", "pass"),
    }


def _fastest(*arguments: str) -> float:
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return min(times)
