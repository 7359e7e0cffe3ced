"""One known fault of the autoscalers, and what was seen of it here; and how long to wait to see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LIMIT_S: Final = 180.0
LOOK_S: Final = 0.3


class TooLong(Exception):  # noqa: N818
    """What was waited for did not come in time: what, and the last that was seen."""


@dataclass(frozen=True, slots=True)
class Case:
    """One finding about KEDA or the HPA, by its number."""

    number: int
    finding: str
    seen: str
    """One sentence."""
    holds: bool
    live: bool
    """Seen on running parts; else Helm refuses the values that would bring it about."""


def wait_until(what: str, holds: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
    """Ask again and again. Raises `TooLong`."""
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            raise TooLong(f"waited {limit_s:.0f} s for {what}")
        time.sleep(LOOK_S)
