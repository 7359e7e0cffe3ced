"""Fills in a request's defaults and checks it against the loaded model and the deployment's limits.

Pure: no device, no clock. The result holds everything that a device must know, so that two workers with the same model
paint the same picture from it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from darkroom.inference.pose.photo import NO_DETECTOR
from darkroom.inference.types import WATERMARK_SIDE_PX_MIN, AdapterUse, BatchKey, ModelInfo, RenderRequest
from darkroom.schemas.errors import ErrorCode, RequestRejected
from darkroom.schemas.events.controls import OPENPOSE
from darkroom.schemas.events.pose import NOBODY_IN_PICTURE, KeypointPose, PhotoPose
from darkroom.schemas.events.request import GenerationRequest, adapters_of, effective_steps, with_pose
from darkroom.schemas.prompts.embeddings import WEIGHTED
from darkroom.schemas.wire.digests import derived_seed, embeddings_of, picture_text

_ADAPTERS_NAMED_MAX = 5
_ASKED = "darkroom:request"
"""The entry of a PNG's text that holds the request as JSON."""

if TYPE_CHECKING:
    # Only for the type: callers have already loaded the settings.
    from darkroom.schemas.settings import LimitSettings


def resolve(
    request: GenerationRequest,
    info: ModelInfo,
    limits: LimitSettings,
    *,
    names_parameters: bool = True,
    watermark: bool = False,
) -> RenderRequest:
    """Return the request with every default filled in. Its pictures tell how they were made if `names_parameters`, and
    have the mark in their pixels if `watermark`, where they are large enough.

    Raises `RequestRejected`, with the request's identity: `invalid_request` and `image_too_large` for values out of
    bounds, `unknown_adapter` for an adapter that the worker does not have, `model_mismatch` for a pose if the model has
    no ControlNet and for economy if its UNet cannot take it, `control_unavailable` for a control that no ControlNet
    follows, `pose_unreadable` for a photo if there is no detector, and
    `pose_not_found` for keypoints of which nothing would be drawn.
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
    for name in embeddings_of(request):
        if name not in info.embeddings:
            _reject(request, ErrorCode.UNKNOWN_ADAPTER, unknown_embedding(name, info))
    if request.fidelity == "economy" and info.economy_refused is not None:
        _reject(
            request,
            ErrorCode.MODEL_MISMATCH,
            f"fidelity is economy, which model {info.name!r} cannot take: {info.economy_refused}; ask for exact",
        )
    request = with_pose(request)
    _check_controls(request, info)
    if isinstance(request.pose, PhotoPose) and info.pose_detector is None:
        _reject(request, ErrorCode.POSE_UNREADABLE, NO_DETECTOR)
    if isinstance(request.pose, KeypointPose) and not request.pose.figures(width, height):
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
        init=request.init,
        mask=request.mask,
        control_scale=request.control_scale,
        control_start=request.control_start,
        control_end=request.control_end,
        controls=request.controls,
        adapters=tuple(AdapterUse(adapter.name, adapter.weight, adapter.text_weight) for adapter in adapters),
        fidelity=request.fidelity,
        image_format=request.output.format,
        image_quality=request.output.quality,
        image_text=_image_text(request, info, width=width, height=height, steps=steps, seed=seed)
        if names_parameters
        else _model_text(info),
        watermark=watermark and min(width, height) >= WATERMARK_SIDE_PX_MIN,
    )


def control_unavailable(kind: str, info: ModelInfo) -> str:
    """Return the sentence for a request with a control of a kind that no loaded ControlNet follows."""
    there = ", ".join(info.control_kinds)
    has = f"this worker has ControlNets for {there}" if there else "this worker has no ControlNet: send no controls"
    return f"no ControlNet follows {kind!r} pictures, {has}"


def unknown_adapter(name: str, info: ModelInfo) -> str:
    """Return the sentence for a request that names a missing adapter."""
    if name in info.adapters_refused:
        return f"adapter {name!r} is refused: {info.adapters_refused[name]}"
    if name in info.embeddings:
        return embedding_as_adapter(name)
    if not info.adapters:
        return f"adapter {name!r} is not known: this worker has no adapters, leave it out"
    return f"adapter {name!r} is not known: this worker has {_listed(info.adapters)}"


def unknown_embedding(name: str, info: ModelInfo) -> str:
    """Return the sentence for a prompt that names a missing textual inversion."""
    if name in info.adapters_refused:
        return f"embedding {name!r} is refused: {info.adapters_refused[name]}"
    if name in info.adapters:
        return adapter_as_embedding(name)
    if not info.embeddings:
        return f"embedding {name!r} is not known: this worker has no textual inversions, leave it out of the prompt"
    return f"embedding {name!r} is not known: this worker has {_listed(info.embeddings)}"


def embedding_as_adapter(name: str) -> str:
    """Return the sentence for a request whose `adapter` is a textual inversion."""
    return (
        f"adapter {name!r} is a textual inversion: write embedding:{name} into a prompt with prompt_syntax {WEIGHTED}"
    )


def adapter_as_embedding(name: str) -> str:
    """Return the sentence for a prompt whose embedding is a LoRA."""
    return f"embedding {name!r} is a LoRA: name it in adapter"


def _listed(names: Collection[str]) -> str:
    more = " and others" if len(names) > _ADAPTERS_NAMED_MAX else ""
    return ", ".join(list(names)[:_ADAPTERS_NAMED_MAX]) + more


def batch_key(request: RenderRequest, info: ModelInfo) -> BatchKey:
    """Return the key of the request's rows: rows with equal keys may share a step."""
    return BatchKey(request.height // info.latent_factor, request.width // info.latent_factor, info.revision)


def name_adapters(image_text: Mapping[str, str], digests: Mapping[str, str]) -> dict[str, str]:
    """Return a PNG's text of a request with these digests of adapters and embeddings, by name.

    `resolve` names the files that were there when the request was taken in, and a file may have been replaced since.
    """
    asked = json.loads(image_text.get(_ASKED, "{}"))
    for adapter in (asked.get("adapter"), *asked.get("adapters", ())):
        if adapter is not None:
            adapter["digest"] = digests[adapter["name"]]
    if "embeddings" in asked:
        asked["embeddings"] = {name: digests[name] for name in asked["embeddings"]}
    return {**image_text, _ASKED: _compact(asked)} if asked else dict(image_text)


def _compact(asked: Mapping[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True, separators=(",", ":"), allow_nan=False)


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


def _check_controls(request: GenerationRequest, info: ModelInfo) -> None:
    for number, control in enumerate(request.controls):
        if control.kind not in info.control_kinds:
            what = f"controls.{number}: {control_unavailable(control.kind, info)}"
            _reject(request, ErrorCode.CONTROL_UNAVAILABLE, what)
    if request.pose is not None and not info.takes_pose:
        if info.controls:
            _reject(request, ErrorCode.CONTROL_UNAVAILABLE, f"pose: {control_unavailable(OPENPOSE, info)}")
        _reject(request, ErrorCode.MODEL_MISMATCH, f"model {info.name!r} was loaded without a ControlNet: send no pose")


def _image_text(
    request: GenerationRequest, info: ModelInfo, *, width: int, height: int, steps: int, seed: int
) -> dict[str, str]:
    """Return the file's text: everything needed to paint it again, and nothing about the worker or the time."""
    asked = picture_text(
        request,
        {"width": width, "height": height, "steps": steps, "seed": seed},
        adapter_digests={**info.adapters, **info.embeddings},
    )
    text = {
        **_model_text(info),
        _ASKED: _compact(asked),
    }
    if isinstance(request.pose, PhotoPose) and info.pose_detector is not None:
        text["darkroom:pose_detector"] = info.pose_detector
    return text


def _model_text(info: ModelInfo) -> dict[str, str]:
    return {"Software": "darkroom", "darkroom:model": info.name, "darkroom:revision": info.revision}


def _reject(request: GenerationRequest, code: ErrorCode, message: str) -> NoReturn:
    raise RequestRejected(code, message, request_id=request.request_id, tenant=request.tenant)
