"""Measures a device's step times in growing batches, and decides when it has measured enough.

A shape is measured in batches of the typical row (guided, and posed if the model takes poses): first one slot, then 1,
2, 4, 8 ... rows up to the most that may share a step, and the shallow calls of as many economy pictures. Measuring ends
early when a batch does not fit, when two batches in a row have clearly lower throughput than an earlier one, or when
the budget does not allow another point.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog

from darkroom.inference.contract import Device
from darkroom.inference.planning.profile import GUIDED_SLOTS, DeviceProfile, Ended, ProfileKey, ShapeProfile
from darkroom.inference.planning.profile_store import ProfileError, ProfileStore
from darkroom.inference.planning.step_curve import StepCurve
from darkroom.inference.types import DeviceLost, FaultKind, ModelError, Part, RenderFault

FALLEN_SHARE: Final = 0.9
"""Share of the best throughput so far: two batches in a row below it end the search. A single one may be noise."""

ReportBatch = Callable[[int, int, float], None]
"""Called after every batch with its rows, the most rows that will be tried, and milliseconds per step."""

_log = structlog.get_logger(__name__)


class NotMeasurableError(Exception):
    """A device, or a picture size on it, that cannot be measured: the reason in one sentence."""


@dataclass(slots=True)
class _Points:
    """Milliseconds of the three parts of a full step, by slots, and of a shallow call's forward."""

    unet: dict[int, float] = field(default_factory=dict)
    controlnet: dict[int, float] = field(default_factory=dict)
    rest: dict[int, float] = field(default_factory=dict)
    shallow: dict[int, float] = field(default_factory=dict)
    """By rows."""

    def step_ms(self, slots: int) -> float:
        return self.unet[slots] + self.controlnet[slots] + self.rest[slots]


def measure_shape(
    device: Device[Any],
    latent_height: int,
    latent_width: int,
    *,
    rows_max: int,
    budget_s: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
    progress: ReportBatch | None = None,
) -> ShapeProfile:
    """Measure one latent size in batches of up to `rows_max` typical rows, or as many as fit into the device's memory.

    `budget_s` bounds the time: a point is begun only if the previous one suggests that it fits into the budget. Raises
    `NotMeasurableError` if the device's steps take no time, if not even one row fits, or if the budget ended before a
    batch of two was measured.
    """
    until = clock() + budget_s
    ceiling = device.rows_ceiling(latent_height, latent_width)
    rows_held = rows_max if ceiling is None else min(rows_max, ceiling)
    points = _Points()
    seconds = _Seconds(device, latent_height, latent_width)
    best, falls = 0.0, 0
    ended = Ended.ROWS_MAX if rows_held == rows_max else Ended.MEMORY
    for rows in _batches(rows_held):
        slots = rows * GUIDED_SLOTS or 1
        began = clock()
        try:
            seconds.into(points, slots)
        except RenderFault as fault:
            if fault.kind is not FaultKind.BATCH_MEMORY:
                raise
            ended = Ended.MEMORY
            break
        if rows == 0:
            continue
        step_ms = points.step_ms(slots)
        if progress is not None:
            progress(rows, rows_held, step_ms)
        falls = falls + 1 if rows / step_ms < FALLEN_SHARE * best else 0
        best = max(best, rows / step_ms)
        if falls == 2:
            ended = Ended.THROUGHPUT
            break
        # The next batch has at most twice the rows and takes at most twice as long.
        if rows < rows_held and clock() + 2 * (clock() - began) > until:
            ended = Ended.BUDGET
            break
    _refuse_too_little(points, ended)
    unet = _curve(points.unet)
    assert unet is not None
    return ShapeProfile(
        latent_height,
        latent_width,
        unet=unet,
        controlnet=_curve(points.controlnet),
        rest=_curve(points.rest),
        shallow=_curve(points.shallow),
        decode_ms=seconds.of(Part.DECODE, 1) * 1000,
        rows_asked=rows_max,
        ended=ended,
        buckets=device.buckets(latent_height, latent_width),
    )


def _batches(rows_max: int) -> list[int]:
    """Return the batch sizes in rows: 0 for a single slot, then powers of two, then the most."""
    powers = [1 << power for power in range(rows_max.bit_length())]
    return [0, *(rows for rows in powers if rows < rows_max), rows_max]


@dataclass(slots=True)
class _Seconds:
    device: Device[Any]
    latent_height: int
    latent_width: int

    def of(self, part: Part, count: int) -> float:
        return self.device.measure(part, self.latent_height, self.latent_width, count)

    def into(self, points: _Points, slots: int) -> None:
        """Measure all parts, or add none: a point that does not fit as a whole is discarded."""
        unet, controlnet, rest = (self.of(part, slots) * 1000 for part in (Part.UNET, Part.CONTROLNET, Part.REST))
        if unet <= 0:
            raise NotMeasurableError("its steps take no time")
        rows, alone = divmod(slots, GUIDED_SLOTS)
        if not alone:
            points.shallow[rows] = self.of(Part.SHALLOW, rows) * 1000
        points.unet[slots], points.controlnet[slots], points.rest[slots] = unet, controlnet, rest


def _refuse_too_little(points: _Points, ended: Ended) -> None:
    if GUIDED_SLOTS not in points.unet:
        raise NotMeasurableError("not even one row fits into its memory")
    if ended is Ended.BUDGET and len(points.unet) < 3:
        raise NotMeasurableError(
            "a single row already took the time for measuring (DARKROOM_BATCH__CALIBRATE_S); "
            "`darkroom calibrate` measures without a limit"
        )


def _curve(points: dict[int, float]) -> StepCurve | None:
    """Return a rising curve through the points: a batch that took longer than a larger one was disturbed, and is
    lowered."""
    # An absent network takes no time at any size; a coarse clock may report 0 for the rest of a step at one size.
    if not any(points.values()):
        return None
    least, settled = math.inf, {}
    for slots, ms in sorted(points.items(), reverse=True):
        least = settled[slots] = min(least, max(ms, 1e-6))
    return StepCurve(settled)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Finds a device's profile at its start: loads a stored one that fits, or measures the native size and stores
    it."""

    store: ProfileStore
    budget_s: float
    """Seconds for measuring; 0 turns profiles off."""
    rows_max: int
    clock: Callable[[], float] = time.monotonic

    def __call__(self, device: Device[Any]) -> DeviceProfile | None:
        """Return the profile of a loaded device, or None, with a log line, if there is none: the worker starts all the
        same.

        Raises `ModelError` if the device stopped working.
        """
        if self.budget_s == 0:
            return None
        try:
            return self._profile(device)
        except NotMeasurableError as error:
            _log.info("not calibrated", reason=str(error), cap=self.rows_max)
        except DeviceLost as error:
            raise ModelError(str(error)) from error
        except Exception as error:
            # Without a profile the worker uses the cap from its settings, so it can still start.
            _log.warning("not calibrated", reason=f"{type(error).__name__}: {error}"[:500], cap=self.rows_max)
        return None

    def _profile(self, device: Device[Any]) -> DeviceProfile:
        info, measured_on = device.info, device.measured_on()
        height, width = info.native_height // info.latent_factor, info.native_width // info.latent_factor
        key = ProfileKey.of(info, measured_on)
        began = self.clock()
        stored = self._load(key) if measured_on else None
        native = None if stored is None else stored.measured(height, width)
        rows_max = rows_to_measure(device, height, width, self.rows_max)
        # A profile that an earlier release stored knows no shallow calls.
        whole = native is not None and (native.shallow is not None or info.economy_refused is not None)
        if stored is not None and native is not None and whole and reaches(native, rows_max):
            self._tell(stored, str(self.store.path(key)), began)
            return stored
        shape = measure_shape(device, height, width, rows_max=rows_max, budget_s=self.budget_s, clock=self.clock)
        profile = with_shape(stored, key, shape)
        if measured_on and shape.ended is not Ended.BUDGET:
            self._save(profile)
        self._tell(profile, "measured", began)
        return profile

    def _load(self, key: ProfileKey) -> DeviceProfile | None:
        try:
            return self.store.load(key)
        except ProfileError as error:
            _log.warning("profile not used", reason=str(error))
            return None

    def _save(self, profile: DeviceProfile) -> None:
        try:
            self.store.save(profile)
        except ProfileError as error:
            _log.warning("profile not kept", reason=str(error))

    def _tell(self, profile: DeviceProfile, source: str, began: float) -> None:
        caps = {
            f"{one.latent_height}x{one.latent_width}": profile.cap(
                one.latent_height, one.latent_width, rows_max=self.rows_max
            )
            for one in profile.shapes
        }
        ended = {f"{one.latent_height}x{one.latent_width}": one.ended.value for one in profile.shapes}
        seconds = round(self.clock() - began, 3)
        _log.info("calibrated", caps=caps, ended=ended, source=source, seconds=seconds)


def rows_to_measure(device: Device[Any], latent_height: int, latent_width: int, rows_max: int) -> int:
    """Return the rows that may share a step of this size: at most `rows_max`, and at most what the memory plan
    allows."""
    ceiling = device.rows_ceiling(latent_height, latent_width)
    return rows_max if ceiling is None else min(rows_max, ceiling)


def reaches(shape: ShapeProfile, rows_max: int) -> bool:
    """Return true if the shape was measured far enough for batches of `rows_max` rows."""
    return shape.ended is not Ended.BUDGET and (shape.rows_asked >= rows_max or shape.ended is not Ended.ROWS_MAX)


def with_shape(profile: DeviceProfile | None, key: ProfileKey, shape: ShapeProfile) -> DeviceProfile:
    """Return the profile with `shape` added, in place of an earlier measurement of the same size."""
    if profile is None:
        return DeviceProfile(key, (shape,))
    size = (shape.latent_height, shape.latent_width)
    others = tuple(one for one in profile.shapes if (one.latent_height, one.latent_width) != size)
    return replace(profile, shapes=(*others, shape))
