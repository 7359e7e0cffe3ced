"""Fills in a request's defaults and checks it against the loaded model and the deployment's limits.

Pure: no device, no clock. The result holds everything that a device must know, so that two workers with the same model
paint the same picture from it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

from darkroom.inference.pose.photo import NO_DETECTOR
from darkroom.inference.types import AdapterUse, BatchKey, ModelInfo, RenderRequest
from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.events.pose import NOBODY_IN_PICTURE, PeoplePose, PhotoPose
from darkroom.schemas.events.request import GenerationRequest, adapters_of, effective_steps
from darkroom.schemas.wire.digests import derived_seed, picture_text

_ADAPTERS_NAMED_MAX = 5

if TYPE_CHECKING:
    # Only for the type: callers have already loaded the settings.
    from darkroom.schemas.settings import LimitSettings


def resolve(request: GenerationRequest, info: ModelInfo, limits: LimitSettings) -> RenderRequest:
    """Return the request with every default filled in.

    Raises `RequestRejected`, with the request's identity: `invalid_request` and `image_too_large` for values out of
    bounds, `unknown_adapter` for an adapter that was not loaded with the model, `model_mismatch` for a pose if the
    model has no ControlNet and for economy if its UNet cannot take it, `pose_unreadable` for a photo if there is no
    detector, and `pose_not_found` for keypoints of which nothing would be drawn.
    """
    width = info.native_width if request.width is None else request.width
    height = info.native_height if request.height is None else request.height
    _check_size(request, width, height, info, limits)
    steps = effective_steps(request)
    if steps > limits.max_steps:
        _reject(request, ErrorCode.INVALID_REQUEST, f"steps is {steps}: at most {limits.max_steps} are allowed here")
    if request.count > limits.max_count:
        _reject(
            request, ErrorCode.INVALID_REQUEST, f"count is {request.count}: at most {limits.max_count} are allowed here"
        )
    adapters = adapters_of(request)
    for adapter in adapters:
        if adapter.name not in info.adapters:
            _reject(request, ErrorCode.UNKNOWN_ADAPTER, unknown_adapter(adapter.name, info))
    if request.fidelity == "economy" and info.economy_refused is not None:
        _reject(
            request,
            ErrorCode.MODEL_MISMATCH,
            f"fidelity is economy, which model {info.name!r} cannot take: {info.economy_refused}; ask for exact",
        )
    if request.pose is not None and not info.takes_pose:
        _reject(request, ErrorCode.MODEL_MISMATCH, f"model {info.name!r} was loaded without a ControlNet: send no pose")
    if isinstance(request.pose, PhotoPose) and info.pose_detector is None:
        _reject(request, ErrorCode.POSE_UNREADABLE, NO_DETECTOR)
    if isinstance(request.pose, PeoplePose) and not request.pose.shows_somebody:
        _reject(request, ErrorCode.POSE_NOT_FOUND, NOBODY_IN_PICTURE)
    seed = derived_seed(request.tenant, request.request_id) if request.seed is None else request.seed
    return RenderRequest(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        width=width,
        height=height,
        steps=steps,
        guidance_scale=request.guidance_scale,
        sampler=request.sampler,
        schedule=request.schedule,
        guidance_start=request.guidance_start,
        guidance_end=request.guidance_end,
        guidance_rescale=request.guidance_rescale,
        prompt_syntax=request.prompt_syntax,
        clip_skip=request.clip_skip,
        seed=seed,
        count=request.count,
        pose=request.pose,
        control_scale=request.control_scale,
        control_start=request.control_start,
        control_end=request.control_end,
        adapters=tuple(AdapterUse(adapter.name, adapter.weight, adapter.text_weight) for adapter in adapters),
        fidelity=request.fidelity,
        image_format=request.output.format,
        image_quality=request.output.quality,
        image_text=_image_text(request, info, width=width, height=height, steps=steps, seed=seed),
    )


def unknown_adapter(name: str, info: ModelInfo) -> str:
    """Return the sentence for a request that names a missing adapter."""
    if name in info.adapters_refused:
        return f"adapter {name!r} was refused when the model was loaded: {info.adapters_refused[name]}"
    if not info.adapters:
        return f"adapter {name!r} is not known: this worker has no adapters, leave it out"
    names = ", ".join(list(info.adapters)[:_ADAPTERS_NAMED_MAX])
    more = " and others" if len(info.adapters) > _ADAPTERS_NAMED_MAX else ""
    return f"adapter {name!r} is not known: this worker has {names}{more}"


def batch_key(request: RenderRequest, info: ModelInfo) -> BatchKey:
    """Return the key of the request's rows: rows with equal keys may share a step."""
    return BatchKey(request.height // info.latent_factor, request.width // info.latent_factor, info.revision)


def _check_size(request: GenerationRequest, width: int, height: int, info: ModelInfo, limits: LimitSettings) -> None:
    for name, side, side_max in (("width", width, limits.max_width), ("height", height, limits.max_height)):
        if side > side_max:
            _reject(request, ErrorCode.IMAGE_TOO_LARGE, f"{name} is {side}: at most {side_max} pixels are allowed here")
        if side < limits.min_side:
            _reject(
                request,
                ErrorCode.INVALID_REQUEST,
                f"{name} is {side}: at least {limits.min_side} pixels are required here",
            )
        if side % info.size_multiple:
            _reject(
                request,
                ErrorCode.INVALID_REQUEST,
                f"{name} is {side}: model {info.name!r} paints multiples of {info.size_multiple} pixels",
            )
    if width * height > limits.max_pixels:
        _reject(
            request,
            ErrorCode.IMAGE_TOO_LARGE,
            f"width times height is {width * height}: at most {limits.max_pixels} pixels are allowed here",
        )


def _image_text(
    request: GenerationRequest, info: ModelInfo, *, width: int, height: int, steps: int, seed: int
) -> dict[str, str]:
    """Return the PNG's text: everything needed to paint it again, and nothing about the worker or the time."""
    asked = picture_text(
        request,
        {"width": width, "height": height, "steps": steps, "seed": seed},
        adapter_digests=info.adapters,
    )
    text = {
        "Software": "darkroom",
        "darkroom:request": json.dumps(asked, sort_keys=True, separators=(",", ":"), allow_nan=False),
        "darkroom:model": info.name,
        "darkroom:revision": info.revision,
        "darkroom:seed": str(seed),
    }
    if isinstance(request.pose, PhotoPose) and info.pose_detector is not None:
        text["darkroom:pose_detector"] = info.pose_detector
    return text


def _reject(request: GenerationRequest, code: ErrorCode, message: str) -> NoReturn:
    raise RequestRejected(code, message, request_id=request.request_id, tenant=request.tenant)
