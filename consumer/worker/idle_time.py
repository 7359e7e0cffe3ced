"""Measures how long the device stood still between two steps although the worker had rows for it.

The engine times the gaps. Whether there was work is asked on the engine's own threads, because the event loop, which
is asked for the next rows, may be the very thing that the device waits for.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from darkroom.inference.types import EngineEvent, StepDone

log = structlog.get_logger(__name__)

LOGGED_S_MIN = 0.002
"""Shorter waits are only counted: a device is asked for its next step after some tenths of a millisecond."""


class DeviceWaits:
    """Reports the waits of one engine's device."""

    def __init__(self, has_work: Callable[[], bool], waited: Callable[[float], None]) -> None:
        """Make an observer that has seen no step.

        `has_work`: returns true if the worker holds rows that are not on the device. `waited`: takes the seconds
        between two steps at the end of the first of which it did. Both are called on the engine's threads and must
        return at once.
        """
        self._has_work = has_work
        self._waited = waited
        self._had_work = False
        """True if there was more work at the end of the last step."""

    def on_engine(self, event: EngineEvent) -> None:
        """Observe an event on the engine's own thread."""
        if not isinstance(event, StepDone):
            return
        if self._had_work and event.idle_s is not None:
            self._waited(event.idle_s)
            if event.idle_s >= LOGGED_S_MIN:
                log.debug(
                    "the device waited", seconds=round(event.idle_s, 6), rows=len(event.rows), joined=event.joined
                )
        self._had_work = self._has_work()
