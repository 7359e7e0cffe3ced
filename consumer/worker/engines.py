"""Which engine the settings ask for. The only place that knows all devices; imports just the one it makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, overload

from darkroom.inference.contract import Device, Engine, RowT
from darkroom.inference.engine import Calibrate, LaneEngine
from darkroom.inference.planning.calibration import Calibration
from darkroom.inference.planning.profile_store import ProfileError, ProfileStore, default_folder, read_profile
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.types import ModelError
from darkroom.schemas.settings import Settings
from darkroom.schemas.settings.model_source import StorePrefix

if TYPE_CHECKING:
    from darkroom.inference.sdxl import ControlNetFiles, ModelFiles
    from darkroom.inference.sdxl.loading.placement import Wishes
    from darkroom.inference.simulated.device import SimulatedDevice

PROMPT_CACHE_BYTES: Final = 64 * 1024 * 1024
"""Encoded prompts kept: about 150 of SDXL's."""
POSE_CACHE_BYTES: Final = 256 * 1024 * 1024
"""Pose pictures and embeddings kept: about 16 of SDXL's."""
PREVIEW_INTERVAL_S: Final = 0.5
"""The least time between two previews of a request that asked for them: about as often as a person looks."""


def make_engine(settings: Settings, calibration: Calibrate | None = None) -> Engine:
    """An engine that is not started, calibrated by the settings unless something else is given.

    Raises `ModelError` for settings that no device can be made of.
    """
    calibration = calibration or calibration_of(settings)
    limits = settings.limits
    pictures = PictureLimits(limits.pose_picture_bytes_max, limits.pose_picture_pixels_max)
    if settings.simulated.is_asked_for:
        return _in_lanes(_simulated(settings, pictures), settings, calibration)

    from darkroom.inference.sdxl import SdxlDevice

    path = settings.model.path
    device = SdxlDevice(
        _finder(settings),
        name=settings.model.name or _name_of(path),
        device=settings.device,
        dtype=settings.model.dtype,
        prompt_cache_bytes_max=PROMPT_CACHE_BYTES,
        pose_cache_bytes_max=POSE_CACHE_BYTES,
        adapter_cache_bytes_max=limits.adapter_cache_bytes,
        pose_limits=pictures,
        rows_max=settings.batch.max_rows,
        compiles=settings.model.compiles,
        compile_sizes=settings.model.sizes_to_compile,
        compile_cache_dir=settings.model.compile_cache_dir,
        wishes=_wishes(settings),
    )
    return _in_lanes(device, settings, calibration)


def _name_of(path: Path | StorePrefix | None) -> str | None:
    """What completions call a model without a name; None for a local folder, whose own name does."""
    if path is None:
        return "darkroom-tiny"
    return path.name if isinstance(path, StorePrefix) else None


def _in_lanes(device: Device[RowT], settings: Settings, calibration: Calibrate) -> LaneEngine[RowT]:
    return LaneEngine(
        device,
        rows_max=settings.batch.max_rows,
        preview_interval_s=PREVIEW_INTERVAL_S,
        calibration=calibration,
    )


def _finder(settings: Settings) -> Callable[[], ModelFiles]:
    """What the device calls when it loads, on a thread: it fetches what is in the store."""
    from darkroom.consumer.weights import ModelStore
    from darkroom.consumer.weights.adapters import StoreAdapters
    from darkroom.inference.sdxl import ModelFiles

    model, adapters = settings.model, settings.model.adapters_path
    store = ModelStore(settings.s3, model)

    @overload
    def local(source: Path | StorePrefix) -> Path: ...
    @overload
    def local(source: None) -> None: ...
    def local(source: Path | StorePrefix | None) -> Path | None:
        return store.fetch(source) if isinstance(source, StorePrefix) else source

    def find() -> ModelFiles:
        path, controlnet_path = local(model.path), local(model.controlnet_path)
        if path is None:
            from darkroom.inference.tiny import trained_model

            tiny = trained_model()
            path, controlnet_path = tiny.path, controlnet_path or tiny.controlnet_path
        return ModelFiles(
            path=path,
            controlnet_path=controlnet_path,
            vae_path=local(model.vae_path),
            config_path=local(model.config_path),
            adapters_path=StoreAdapters(store, adapters) if isinstance(adapters, StorePrefix) else adapters,
            pose_detector_path=local(model.pose_detector_path),
            pose_style=model.pose_style,
            controlnets=tuple(
                ControlNetFiles(one.name, local(one.path), one.kinds, one.style) for one in model.controlnets
            ),
        )

    return find


def _wishes(settings: Settings) -> Wishes:
    """What the memory plan is to reckon with: the largest picture that a request may ask for, and the caches."""
    from darkroom.inference.sdxl.loading.placement import Wishes

    limits, model = settings.limits, settings.model
    return Wishes(
        text_device=model.text_device,
        vae_device=model.vae_device,
        width=limits.max_width,
        height=min(limits.max_height, limits.max_pixels // limits.max_width),
        cache_bytes=PROMPT_CACHE_BYTES + POSE_CACHE_BYTES,
    )


def calibration_of(settings: Settings) -> Calibration:
    """Return the search for a device's profile at its start."""
    store = ProfileStore(settings.model.profile_dir or default_folder())
    return Calibration(store, settings.batch.calibrate_s, settings.batch.max_rows)


def _simulated(settings: Settings, pictures: PictureLimits) -> SimulatedDevice:
    from darkroom.inference.planning.step_curve import CurveError, read_curve
    from darkroom.inference.simulated.device import SimulatedDevice

    asked = settings.simulated
    try:
        return SimulatedDevice(
            asked.step_ms,
            None if asked.curve_file is None else read_curve(asked.curve_file),
            profile=None if asked.profile_file is None else read_profile(asked.profile_file),
            obey_markers=asked.obey_markers,
            picture_limits=pictures,
        )
    except (CurveError, ProfileError) as error:
        raise ModelError(str(error)) from error
