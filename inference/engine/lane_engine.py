"""The engine over one device: its life and its settings, on top of the monitor and the lanes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from typing_extensions import override

from darkroom.inference.contract import CostProfile, Device, Engine, Listener, RowT, RunPlan
from darkroom.inference.engine.lanes import Lanes
from darkroom.inference.engine.monitor import LaneMonitor
from darkroom.inference.types import SHALLOW_SHARE, BatchKey, CacheCounts, ModelInfo, RowCaps

CAPS_MAX = 1024
"""Batch caps remembered by batch key: more picture sizes than anybody requests, and a cap is recomputed in
microseconds."""

Calibrate = Callable[[Device[Any]], CostProfile | None]
"""Finds or measures the profile of a loaded device; returns None if it cannot be measured."""

_log = structlog.get_logger(__name__)


class LaneEngine(LaneMonitor[RowT], Engine):
    """`darkroom.inference.contract.Engine` over one device.

    Invariants:

    - Rows join and leave at step boundaries only; rows that share a step have the same `BatchKey`.
    - A job ends in one of `JobRendered`, `JobFailed` and `drop`, and no event mentions it afterwards.
    - A failed step leaves its rows prepared, with the steps they had done.
    - Finished rows wait in a bounded queue. The denoise lane waits only while that queue is full.
    - No lane ends silently: `EngineStopped` is the last event of an engine that was not closed.
    """

    def __init__(
        self,
        device: Device[RowT],
        *,
        rows_max: int,
        decode_rows_max: int = 4,
        finish_queue_rows_max: int = 16,
        jobs_max: int = 4096,
        preview_interval_s: float = 0.5,
        close_wait_s: float = 60.0,
        clock: Callable[[], float] = time.perf_counter,
        calibration: Calibrate | None = None,
    ) -> None:
        """Make an engine that is not started. Raises `ValueError` for a bound that is not positive.

        `rows_max`: rows that may share a step; further admitted rows wait for room. The caps of a batch key are lower
        if the device's memory holds fewer rows, or if the profile says that fewer are worth running together.
        `decode_rows_max`: rows that may be decoded together. On a CPU a row alone takes up to 1.6 times as long, and
        eight rows gain nothing over four.
        `finish_queue_rows_max`: the denoise lane waits while more finished rows than this are not decoded. Two full
        batches of eight by default: enough to absorb a slow picture, and little memory because only latents wait.
        `jobs_max`: jobs held at one time, at any stage; above it `prepare` raises `EngineFullError`. The worker's own
        bounds are far lower: this one turns a leak into an error.
        `preview_interval_s`: the least time between two previews of a job. The finish lane makes them while no finished
        row waits, so they never delay a step.
        `close_wait_s`: the time for which `close` waits for all lanes together: longer than the slowest step and
        decode.
        `clock`: seconds from any origin, never going back.
        `calibration`: finds the loaded device's profile (`darkroom.inference.planning.calibration.Calibration`).
        Without it both caps of every batch key are `rows_max`.
        """
        bounds = {
            "rows_max": rows_max,
            "decode_rows_max": decode_rows_max,
            "finish_queue_rows_max": finish_queue_rows_max,
            "jobs_max": jobs_max,
        }
        for name, bound in bounds.items():
            if bound < 1:
                raise ValueError(f"{name} is {bound}: give a number above 0")
        super().__init__(
            caps=self._batch_caps,
            shallow_share=self._shallow_share,
            finish_queue_rows_max=finish_queue_rows_max,
            jobs_max=jobs_max,
            preview_interval_s=preview_interval_s,
            clock=clock,
        )
        self._device = device
        self._calibrate = calibration
        self._profile: CostProfile | None = None
        self._rows_max = rows_max
        self._known_caps: dict[BatchKey, RowCaps] = {}
        self._close_wait_s = close_wait_s
        self._lanes: Lanes[RowT] = Lanes(device, self, decode_rows_max=decode_rows_max, clock=clock)
        self._closing = threading.Lock()
        self._closed = False

    @property
    @override
    def info(self) -> ModelInfo:
        return self._device.info

    @property
    @override
    def profile(self) -> CostProfile | None:
        return self._profile

    @property
    @override
    def plan(self) -> RunPlan | None:
        return self._device.plan

    @override
    def start(self, listener: Listener) -> None:
        """Load the device, find or measure its profile, and start the lanes.

        The lanes call the listener with the engine's lock held: it must return at once and wait for nothing. It may
        call `prepare`, `admit` and `drop`, but not `close`. Raises `ModelError`, and `RuntimeError` if the engine was
        started or closed before.
        """
        self.listen(listener)
        self._device.load()
        self.take_turns(self._device.series)
        if self._calibrate is not None:
            self._profile = self._calibrate(self._device)
        with self._closing:
            if self._closed:
                self._device.close()
                raise RuntimeError("the engine was closed while its model was loading")
            self._lanes.start()

    @override
    def rows_ceiling(self, batch_key: BatchKey) -> int | None:
        return self._device.rows_ceiling(batch_key.latent_height, batch_key.latent_width)

    @override
    def cache_counts(self) -> Mapping[str, CacheCounts]:
        return self._device.cache_counts()

    @override
    def memory_bytes(self) -> Mapping[str, int]:
        return self._device.memory_bytes()

    @override
    def refresh_adapters(self) -> bool:
        return self._device.refresh_adapters()

    @override
    def close(self) -> None:
        """Stop the lanes and free the device. Idempotent.

        No event is sent once this has begun. A lane that is still inside the device after `close_wait_s` is left to end
        with the process, and the device is then not freed underneath it.
        """
        with self._closing:
            if self._closed:
                return
            self._closed = True
            self.end()
            stuck = self._lanes.join(self._close_wait_s)
            if stuck:
                _log.warning("lanes_still_in_the_device", lanes=stuck, waited_s=self._close_wait_s)
            else:
                self._device.close()

    def _shallow_share(self, key: BatchKey) -> float:
        if self._profile is None:
            return SHALLOW_SHARE
        return self._profile.shallow_share(key.latent_height, key.latent_width)

    def _batch_caps(self, key: BatchKey) -> RowCaps:
        """Return how many rows of a key may share a step. Called with the lock held."""
        caps = self._known_caps.get(key)
        if caps is None:
            if len(self._known_caps) >= CAPS_MAX:
                self._known_caps.clear()
            ceiling = self.rows_ceiling(key)
            held = self._rows_max if ceiling is None else min(self._rows_max, ceiling)
            caps = RowCaps(held, held)
            if self._profile is not None:
                caps = self._profile.caps(key.latent_height, key.latent_width, rows_max=held)
            self._known_caps[key] = caps
        return caps
