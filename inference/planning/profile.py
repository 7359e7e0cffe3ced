"""Holds a device's measured times, and derives from them the best batch size and the duration of work.

A step costs U(UNet slots) + C(ControlNet slots) + R(UNet slots): the two networks' forwards and the rest of the step
(laying out rows, noise, the sampler's formula). A guided row takes two UNet slots and, with a pose, two ControlNet
slots; an unguided row takes one of each. A shallow step of an economy picture costs S(rows) + R(UNet slots): its
forward takes one slot for each row. Where S was not measured, it costs `SHALLOW_SHARE` of the row's full step.

The cap of a shape is the smallest batch whose throughput is at least `GOOD_SHARE` of the best, in rows a second of the
*typical row*: guided, and posed where the model takes poses. Beyond the cap, a row that joins mostly slows down the
others. The best cap is the batch for a backlog, where nobody waits for a row alone.

A shape that was not measured is estimated from a measured one (the smallest with at least its latent area, otherwise
the largest) by its share of latent pixels: n slots of area A take as long as n * A / A0 slots of the measured area A0,
and never less than one slot of it. So a smaller picture's batch holds no more latent pixels than the measured best, and
its time is overestimated rather than underestimated. For a larger picture the estimate can be too short, because it
ignores that attention grows with the square of the area: measure the sizes that matter (`darkroom calibrate --sizes`).

Pure: nothing here measures, reads a file or a clock. `darkroom.inference.planning.calibration` measures,
`darkroom.inference.planning.profile_store` keeps.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from darkroom.inference.planning.step_curve import StepCurve
from darkroom.inference.types import SHALLOW_SHARE, ModelInfo, RowCaps

GOOD_SHARE: Final = 0.95
"""Share of the best throughput: the last twentieth would double the batch, and every row's latency, for little gain."""

BEST_SHARE: Final = 0.999
"""Share of the best throughput that counts as the best: on a flat curve, noise in the measurement fills no batch."""

GUIDED_SLOTS: Final = 2
"""Slots of the typical row: prompt and negative prompt."""


class Ended(Enum):
    """The reason why a shape was not measured in larger batches."""

    ROWS_MAX = "rows_max"
    """The batch was as large as a step allows."""
    MEMORY = "memory"
    """The next batch did not fit."""
    THROUGHPUT = "throughput"
    """The last batch had clearly lower throughput than an earlier one."""
    BUDGET = "budget"
    """The time for measuring was over. Such a profile is not stored: a start on a quieter machine may measure more."""


@dataclass(frozen=True, slots=True)
class ProfileKey:
    """Everything that a measurement depends on. A device with another key is measured again."""

    revision: str
    dtype: str
    sampler_version: str
    measured_on: tuple[tuple[str, str], ...]
    """`Device.measured_on()`, sorted: the hardware, the libraries' versions."""

    @classmethod
    def of(cls, info: ModelInfo, measured_on: Mapping[str, str]) -> ProfileKey:
        """Return the key of a loaded device."""
        return cls(info.revision, info.dtype, info.sampler_version, tuple(sorted(measured_on.items())))

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify the key."""
        text = json.dumps([self.revision, self.dtype, self.sampler_version, self.measured_on])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class ShapeProfile:
    """Measured times of one latent size. Curves are milliseconds by slots."""

    latent_height: int
    latent_width: int
    unet: StepCurve
    controlnet: StepCurve | None
    """None if the model has no ControlNet."""
    rest: StepCurve | None
    """None if nothing else takes time."""
    decode_ms: float
    """Milliseconds to decode one picture's latents in the VAE."""
    rows_asked: int
    """The number of guided rows up to which it was measured, unless `ended` says otherwise."""
    ended: Ended
    shallow: StepCurve | None = None
    """Milliseconds of a shallow call's forward, by rows; None if it was not measured or the model has none."""
    buckets: tuple[int, ...] = ()
    """Rising slot counts to which forwards of this size are padded; a forward with more slots is not padded."""

    @property
    def area(self) -> int:
        """Latent pixels."""
        return self.latent_height * self.latent_width

    @property
    def control_slots(self) -> int:
        """ControlNet slots of the typical row."""
        return 0 if self.controlnet is None else GUIDED_SLOTS

    def step_ms(self, unet_slots: float, control_slots: float) -> float:
        """Return the milliseconds of a step, including its padding. Slots of a picture of another size may be
        fractions."""
        ms = self.unet.ms(padded(unet_slots, self.buckets))
        if self.controlnet is not None and control_slots > 0:
            ms += self.controlnet.ms(padded(control_slots, self.buckets))
        return ms if self.rest is None else ms + self.rest.ms(unet_slots)

    def shallow_step_ms(self, rows: float) -> float | None:
        """Return the milliseconds of a step of `rows` guided rows whose calls are all shallow; None if unknown."""
        if self.shallow is None:
            return None
        ms = self.shallow.ms(rows)
        return ms if self.rest is None else ms + self.rest.ms(rows * GUIDED_SLOTS)


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """The measured shapes of one device with one model: at least one, each of them once."""

    key: ProfileKey
    shapes: tuple[ShapeProfile, ...]

    def __post_init__(self) -> None:
        sizes = {(one.latent_height, one.latent_width) for one in self.shapes}
        if not sizes or len(sizes) != len(self.shapes):
            raise ValueError(f"a profile has each of its shapes once, and at least one: {len(self.shapes)} given")

    def measured(self, latent_height: int, latent_width: int) -> ShapeProfile | None:
        """Return the shape of this size, or None if it was not measured."""
        for one in self.shapes:
            if (one.latent_height, one.latent_width) == (latent_height, latent_width):
                return one
        return None

    def step_ms(self, latent_height: int, latent_width: int, *, unet_slots: int, control_slots: int) -> float:
        """Return the milliseconds of a step with these slots."""
        shape, share = self._reference(latent_height, latent_width)
        return shape.step_ms(unet_slots * share, control_slots * share)

    def decode_ms(self, latent_height: int, latent_width: int) -> float:
        """Return the milliseconds of decoding one picture."""
        shape, share = self._reference(latent_height, latent_width)
        return shape.decode_ms * share

    def rows_per_second(self, latent_height: int, latent_width: int, rows: int) -> float:
        """Return the row steps per second if `rows` typical rows share each step."""
        shape, _ = self._reference(latent_height, latent_width)
        slots = {"unet_slots": rows * GUIDED_SLOTS, "control_slots": rows * shape.control_slots}
        return rows * 1000 / self.step_ms(latent_height, latent_width, **slots)

    def cap(self, latent_height: int, latent_width: int, *, rows_max: int) -> int:
        """Return the smallest batch of at most `rows_max` rows that reaches `GOOD_SHARE` of the best throughput."""
        return self.caps(latent_height, latent_width, rows_max=rows_max).paying

    def caps(self, latent_height: int, latent_width: int, *, rows_max: int) -> RowCaps:
        """Return the smallest batches of at most `rows_max` rows that reach `GOOD_SHARE` and `BEST_SHARE` of the best
        throughput.

        Never more rows than were measured: a larger batch may be slower, or not fit.
        """
        known_max = max(1, min(rows_max, self._rows_known(latent_height, latent_width)))
        rates = [self.rows_per_second(latent_height, latent_width, rows) for rows in range(1, known_max + 1)]
        best = max(rates)
        paying, most = (
            next(rows for rows, rate in enumerate(rates, start=1) if rate >= share * best)
            for share in (GOOD_SHARE, BEST_SHARE)
        )
        return RowCaps(paying, most)

    def shallow_step_ms(self, latent_height: int, latent_width: int, *, rows: int, full_ms: float) -> float:
        """Return the milliseconds of a step of `rows` rows whose calls are all shallow; `full_ms` is their full step's,
        which bounds it."""
        shape, share = self._reference(latent_height, latent_width)
        ms = shape.shallow_step_ms(rows * share)
        return min(full_ms, SHALLOW_SHARE * full_ms if ms is None else ms)

    def shallow_share(self, latent_height: int, latent_width: int) -> float:
        """Return the time of a shallow step as a share of a full step's, both of one typical row."""
        full_ms = 1000 / self.rows_per_second(latent_height, latent_width, 1)
        return self.shallow_step_ms(latent_height, latent_width, rows=1, full_ms=full_ms) / full_ms

    def device_seconds(
        self,
        latent_height: int,
        latent_width: int,
        *,
        steps: int,
        guided: bool,
        posed: bool,
        rows: int,
        shallow_steps: int = 0,
    ) -> float:
        """Return one row's share of the device in seconds: its part of the steps that `rows` such rows share, `steps`
        full ones and `shallow_steps` others, and its decode.

        Decoding is counted as if it took turns with the steps; if the lanes overlap, the result is too long.
        """
        slots = rows * (GUIDED_SLOTS if guided else 1)
        step_ms = self.step_ms(latent_height, latent_width, unet_slots=slots, control_slots=slots if posed else 0)
        steps_ms = steps * step_ms
        if shallow_steps:
            size = latent_height, latent_width
            steps_ms += shallow_steps * self.shallow_step_ms(*size, rows=rows, full_ms=step_ms)
        return (steps_ms / rows + self.decode_ms(latent_height, latent_width)) / 1000

    def _reference(self, latent_height: int, latent_width: int) -> tuple[ShapeProfile, float]:
        """Return the measured shape that stands for this size, and this size's area as a share of the shape's area."""
        shape = self.measured(latent_height, latent_width)
        if shape is not None:
            return shape, 1.0
        area = latent_height * latent_width
        larger = [one for one in self.shapes if one.area >= area]
        shape = min(larger, key=_by_area) if larger else max(self.shapes, key=_by_area)
        return shape, area / shape.area

    def _rows_known(self, latent_height: int, latent_width: int) -> int:
        shape, share = self._reference(latent_height, latent_width)
        return int(shape.unet.rows_max / GUIDED_SLOTS / share)


def padded(slots: float, buckets: Sequence[int]) -> float:
    """Return the slots of a forward of `slots` once it is padded to one of the rising `buckets`."""
    at = bisect_left(buckets, slots)
    return slots if at == len(buckets) else buckets[at]


def _by_area(shape: ShapeProfile) -> tuple[int, int]:
    return shape.area, shape.latent_height
