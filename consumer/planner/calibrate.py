"""Measures a device at several sizes and writes what came of it: a profile, curves for the simulated device, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from darkroom.consumer.worker.engines import calibration_of, make_engine
from darkroom.inference.contract import Device
from darkroom.inference.planning.calibration import (
    NotMeasurableError,
    ReportBatch,
    measure_shape,
    rows_to_measure,
    with_shape,
)
from darkroom.inference.planning.profile import GUIDED_SLOTS, DeviceProfile, Ended, ProfileKey, ShapeProfile
from darkroom.inference.planning.profile_store import ProfileError, ProfileStore
from darkroom.inference.planning.step_curve import curve_text
from darkroom.inference.types import EngineEvent, ModelError
from darkroom.schemas.settings import Settings

Size = tuple[int, int]
"""Width and height in pixels."""

_ENDED: Final = {
    Ended.ROWS_MAX: "measured up to the largest batch asked for",
    Ended.MEMORY: "the next batch did not fit into memory",
    Ended.THROUGHPUT: "larger batches were clearly worse",
    Ended.BUDGET: "the time was up",
}


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch of typical rows: a measured one, or the cap between two of them."""

    rows: int
    slots: int
    unet_ms: float
    controlnet_ms: float
    rest_ms: float
    step_ms: float
    rows_per_second: float
    """Steps of a row a second, over all rows of the batch."""
    measured: bool


@dataclass(frozen=True, slots=True)
class SizeFound:
    """Result of measuring one size."""

    width: int
    height: int
    shape: ShapeProfile
    rows: tuple[BatchRow, ...]
    cap: int

    @property
    def why_it_ended(self) -> str:
        """Why no larger batch was measured, in words."""
        return _ENDED[self.shape.ended]


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Result of a calibration: a profile that holds earlier sizes too, and the sizes of this call."""

    model: str
    device: str
    profile: DeviceProfile
    sizes: tuple[SizeFound, ...]
    kept: Path | None
    """Where workers find the profile; None for a device that is not measured but made up."""

    def document(self) -> dict[str, Any]:
        """For machines."""
        key = self.profile.key
        return {
            "model": self.model,
            "device": self.device,
            "revision": key.revision,
            "dtype": key.dtype,
            "measured_on": dict(key.measured_on),
            "profile": None if self.kept is None else str(self.kept),
            "sizes": [
                {
                    "width": one.width,
                    "height": one.height,
                    "cap": one.cap,
                    "decode_ms": one.shape.decode_ms,
                    "ended": one.shape.ended.value,
                    "batches": [asdict(row) for row in one.rows],
                }
                for one in self.sizes
            ],
        }

    def write(self, folder: Path) -> tuple[Path, ...]:
        """The profile, a curve file a size, and the plot. Raises `ProfileError` and `OSError`."""
        written = [ProfileStore(folder).save(self.profile)]
        for one in self.sizes:
            path = folder / f"curve-{one.width}x{one.height}.json"
            path.write_text(curve_text({row.rows: row.step_ms for row in one.rows if row.measured}))
            written.append(path)
        plot = folder / "curve.png"
        draw(self.sizes, plot)
        return (*written, plot)


def calibrate_device(
    settings: Settings, sizes: Sequence[Size] | None, progress: ReportBatch | None = None
) -> Calibrated:
    """Load the device that the settings ask for, measure it, and keep the profile in the settings' folder.

    `sizes`: in pixels, the model's native one where there are none. Raises `ModelError`, also where the device cannot
    be measured, and `ProfileError` where the profile cannot be kept.
    """
    calibration = calibration_of(settings)
    rows_max = settings.batch.max_rows
    taken: list[Calibrated] = []

    def measure(device: Device[Any]) -> DeviceProfile:
        info, measured_on = device.info, device.measured_on()
        asked = sizes or ((info.native_width, info.native_height),)
        for width, height in asked:
            if width % info.size_multiple or height % info.size_multiple:
                raise NotMeasurableError(
                    f"{width}x{height} cannot be painted: this model's sizes are multiples of {info.size_multiple}."
                )
        key = ProfileKey.of(info, measured_on)
        profile = _kept(calibration.store, key) if measured_on else None
        shapes = []
        for width, height in asked:
            latent = (height // info.latent_factor, width // info.latent_factor)
            fitting = rows_to_measure(device, *latent, rows_max)
            shapes.append(measure_shape(device, *latent, rows_max=fitting, progress=progress))
            profile = with_shape(profile, key, shapes[-1])
        assert profile is not None
        found = tuple(_size_found(size, shape, profile, rows_max) for size, shape in zip(asked, shapes, strict=True))
        path = calibration.store.save(profile) if measured_on else None
        taken.append(Calibrated(info.name, info.device, profile, found, path))
        return profile

    engine = make_engine(settings, measure)
    try:
        engine.start(_ignore)
    except NotMeasurableError as error:
        raise ModelError(f"The device cannot be measured: {error}") from error
    finally:
        engine.close()
    return taken[0]


def _kept(store: ProfileStore, key: ProfileKey) -> DeviceProfile | None:
    """Sizes that were measured before; a file that cannot be used is replaced."""
    try:
        return store.load(key)
    except ProfileError:
        return None


def _size_found(size: Size, shape: ShapeProfile, profile: DeviceProfile, rows_max: int) -> SizeFound:
    height, width = shape.latent_height, shape.latent_width
    cap = profile.cap(height, width, rows_max=rows_max)
    measured = {slots // GUIDED_SLOTS for slots, _ in shape.unet.points if slots % GUIDED_SLOTS == 0}
    batches = []
    for rows in sorted(measured | {cap}):
        slots, control_slots = rows * GUIDED_SLOTS, rows * shape.control_slots
        batches.append(
            BatchRow(
                rows=rows,
                slots=slots,
                unet_ms=shape.unet.ms(slots),
                controlnet_ms=0.0 if shape.controlnet is None else shape.controlnet.ms(control_slots),
                rest_ms=0.0 if shape.rest is None else shape.rest.ms(slots),
                step_ms=shape.step_ms(slots, control_slots),
                rows_per_second=profile.rows_per_second(height, width, rows),
                measured=rows in measured,
            )
        )
    return SizeFound(*size, shape, tuple(batches), cap)


def draw(sizes: Sequence[SizeFound], path: Path) -> None:
    """Throughput by batch, a line a size, its cap marked."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for one in sizes:
        rows = [row.rows for row in one.rows]
        gains = [row.rows_per_second / one.rows[0].rows_per_second for row in one.rows]
        (line,) = axes.plot(rows, gains, marker="o", markersize=3, label=f"{one.width} x {one.height}, cap {one.cap}")
        axes.axvline(one.cap, color=line.get_color(), linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("images that share a step")
    axes.set_ylabel("throughput, one image alone = 1")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _ignore(_event: EngineEvent) -> None:
    """Nothing is rendered."""
