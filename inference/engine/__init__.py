"""Runs any device in three lanes on threads of their own: `LaneEngine` is the whole of it for callers.

Read `lanes` first (the three loops that call the device), then `monitor` (the lock between them and the callers, and
the events). `step_batch` and `turns` hold the decisions, free of threads and clocks; `lane_engine` starts and closes it
all.
"""

from darkroom.inference.engine.lane_engine import Calibrate, LaneEngine
from darkroom.inference.engine.monitor import EngineFullError

__all__ = ["Calibrate", "EngineFullError", "LaneEngine"]
