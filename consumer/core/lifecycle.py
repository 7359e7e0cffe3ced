"""The worker's life as a table. Health is read from it."""

from __future__ import annotations

from enum import Enum


class Phase(Enum):
    """Where the worker is in its life."""

    STARTING = "starting"
    """The model is being loaded and warmed; no record is taken."""
    RUNNING = "running"
    DRAINING = "draining"
    """What is on the device is being finished; nothing new is started."""
    CLOSED = "closed"


class Signal(Enum):
    """Events that move the lifecycle on."""

    STARTED = "started"
    DRAIN = "drain"
    DONE = "done"


LIFECYCLE: dict[tuple[Phase, Signal], Phase] = {
    (Phase.STARTING, Signal.STARTED): Phase.RUNNING,
    (Phase.STARTING, Signal.DRAIN): Phase.CLOSED,
    (Phase.RUNNING, Signal.DRAIN): Phase.DRAINING,
    (Phase.DRAINING, Signal.DRAIN): Phase.DRAINING,
    (Phase.DRAINING, Signal.DONE): Phase.CLOSED,
}
"""Every other pair leaves the phase as it is."""


def after(phase: Phase, signal: Signal) -> Phase:
    """The phase that follows."""
    return LIFECYCLE.get((phase, signal), phase)
