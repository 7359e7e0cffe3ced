"""Which engine the settings ask for. The only place that knows all devices; imports just the one it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.contract import Engine, ModelError
from inference.engine import LaneEngine
from inference.pose.picture import PictureLimits
from schemas.settings import Settings

if TYPE_CHECKING:
    from inference.simulated import SimulatedDevice


def make_engine(settings: Settings) -> Engine:
    """An engine that is not started. Raises `ModelError` for settings that no device can be made of."""
    limits = settings.limits
    pictures = PictureLimits(limits.pose_picture_bytes_max, limits.pose_picture_pixels_max)
    if settings.simulated.step_ms is not None or settings.simulated.curve_file is not None:
        return LaneEngine(_simulated(settings, pictures), rows_max=settings.batch.max_rows)

    from inference.sdxl import SdxlDevice

    path, controlnet_path, name = settings.model.path, settings.model.controlnet_path, settings.model.name
    if path is None:
        from inference.tiny import ensure_tiny_model

        tiny = ensure_tiny_model()
        path, controlnet_path, name = tiny.path, tiny.controlnet_path, tiny.name
    device = SdxlDevice(
        path,
        controlnet_path,
        name=name,
        device=settings.device,
        dtype=settings.model.dtype,
        prompt_cache_bytes_max=limits.prompt_cache_bytes,
        pose_cache_bytes_max=limits.pose_cache_bytes,
        pose_limits=pictures,
        pose_detector_path=settings.model.pose_detector_path,
        rows_max=settings.batch.max_rows,
        compiles=settings.model.compiles,
        compile_sizes=settings.model.sizes_to_compile,
        compile_cache_dir=settings.model.compile_cache_dir,
    )
    return LaneEngine(device, rows_max=settings.batch.max_rows)


def _simulated(settings: Settings, pictures: PictureLimits) -> SimulatedDevice:
    from inference.simulated import SimulatedDevice
    from inference.step_curve import CurveError, read_curve

    try:
        file = settings.simulated.curve_file
        curve = None if file is None else read_curve(file)
    except CurveError as error:
        raise ModelError(str(error)) from error
    return SimulatedDevice(
        settings.simulated.step_ms, curve, obey_markers=settings.simulated.obey_markers, picture_limits=pictures
    )
