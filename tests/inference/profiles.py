"""Profiles made by formula, for tests that need no device."""

from __future__ import annotations

from collections.abc import Callable

from darkroom.inference.planning.profile import DeviceProfile, Ended, ProfileKey, ShapeProfile
from darkroom.inference.planning.step_curve import StepCurve

KEY = ProfileKey("sha256:" + "0" * 64, "float32", "1", (("hardware", "made up"),))


def flat(slots: int) -> float:
    """A busy device: every slot takes as long as the first."""
    return 10.0 * slots


def gaining(slots: int) -> float:
    """Like the tiny model at latent 16: a fixed part, and a smaller one for each slot."""
    return 8.0 + 3.0 * slots


def shape(
    ms: Callable[[int], float] = gaining, *, side: int = 8, rows: int = 8, posed: bool = False, decode_ms: float = 5.0
) -> ShapeProfile:
    """Measured at 1, 2, 4, ... slots; the ControlNet takes half of what the UNet takes."""
    slots = [1, *(2 << power for power in range(rows.bit_length()))]
    unet = {one: ms(one) for one in slots if one <= 2 * rows}
    control = StepCurve({one: taken / 2 for one, taken in unet.items()}) if posed else None
    return ShapeProfile(side, side, StepCurve(unet), control, None, decode_ms, rows, Ended.ROWS_MAX)


def profile(*shapes: ShapeProfile) -> DeviceProfile:
    return DeviceProfile(KEY, shapes or (shape(),))
