"""What makes two requests the same: digests of what was asked, and of what decides the pixels.

Both are SHA-256 over canonical JSON: keys sorted, no white space, ASCII, numbers in Python's shortest form (whole
fractions as `5.0`, zero never negative). So they do not depend on the order of fields, on fields that are not
known, or on whether a default was written out.

`request_digest` decides conflicts: the same (tenant, request id) with another digest is another request. It covers
what the requester gets and nothing else. Not covered are the identity itself; `deadline`, `priority`, `progress` and
`labels`, which say how the work is to be treated and which clients set anew when they repeat a request; and the
`preset`, whose steps are covered.

`render_digest` decides pictures: it leaves out what cannot change a pixel of the outcome (control settings without
a pose, quality of a PNG) and adds the model's revision, the sampler's version, the adapter's digest and, for a photo,
the detector's.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from darkroom.schemas.events.pose import InlinePicture, PeoplePose, PhotoPose, PictureRef, Pose, SkeletonPose
from darkroom.schemas.events.request import COUNT_MAX, SEED_MAX, GenerationRequest, effective_steps

DERIVED_SEED_MAX: Final = SEED_MAX - COUNT_MAX
"""The largest derived seed: with any count the last image's seed stays in range."""

_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def raw_digest(value: bytes) -> str:
    """`sha256:` and 64 hexadecimal digits over bytes as they are: the digest of a record that is no request."""
    return f"sha256:{hashlib.sha256(value).hexdigest()}"


def derived_seed(tenant: str, request_id: str) -> int:
    """The first image's seed of a request that names none, 0 to `DERIVED_SEED_MAX`: the same for every replay."""
    digest = hashlib.sha256(f"{tenant}/{request_id}".encode()).digest()
    return int.from_bytes(digest[:16], "big") % (DERIVED_SEED_MAX + 1)


def request_digest(request: GenerationRequest) -> str:
    """The digest of what was asked. Equal for two requests that ask for the same thing in other words."""
    return raw_digest(_canonical(_asked(request)))


def render_digest(
    request: GenerationRequest,
    model_revision: str,
    sampler_version: str,
    *,
    pose_picture: bytes | None = None,
    pose_detector: str | None = None,
    adapter_digest: str | None = None,
) -> str:
    """The digest of all that decides the pictures.

    `pose_picture` are the bytes of a stored pose picture, where they are known: then the digest is of the picture
    rather than of its name, as it always is for an inline one. `pose_detector` is the digest of what found the people
    in a photo: two detectors may paint one photo in two ways, and no other request depends on any. `adapter_digest`
    is that of the adapter's file, where the request names one: a name may come to stand for other weights. Width and
    height count as written; to tell a native size from none, pass a request in which they are filled in.
    """
    parts = _asked(request)
    if request.pose is None:
        for name in ("control_scale", "control_start", "control_end"):
            del parts[name]
    elif pose_picture is not None:
        parts["pose"] = {_picture_field(request.pose): raw_digest(pose_picture)}
    if request.output.format == "png":
        del parts["output"]["quality"]
    if isinstance(request.pose, PhotoPose):
        parts["pose_detector"] = pose_detector
    if request.adapter is not None:
        parts["adapter"]["digest"] = adapter_digest
    parts["model_revision"] = model_revision
    parts["sampler_version"] = sampler_version
    return raw_digest(_canonical(parts))


def _asked(request: GenerationRequest) -> dict[str, Any]:
    """The parts of a request that say what was asked, with every default filled in."""
    seed = derived_seed(request.tenant, request.request_id) if request.seed is None else request.seed
    adapter = request.adapter
    return {
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "width": request.width,
        "height": request.height,
        "steps": effective_steps(request),
        "guidance_scale": request.guidance_scale,
        "sampler": request.sampler,
        "seed": seed,
        "count": request.count,
        "pose": None if request.pose is None else _pose(request.pose),
        "control_scale": request.control_scale,
        "control_start": request.control_start,
        "control_end": request.control_end,
        "adapter": None if adapter is None else {"name": adapter.name, "weight": adapter.weight},
        "output": {"format": request.output.format, "quality": request.output.quality},
    }


def _pose(pose: Pose) -> dict[str, Any]:
    if isinstance(pose, PeoplePose):
        return {"people": pose.people, "format": pose.format}
    picture = pose.image if isinstance(pose, SkeletonPose) else pose.photo
    return {_picture_field(pose): _picture(picture)}


def _picture_field(pose: Pose) -> str:
    return "image" if isinstance(pose, SkeletonPose) else "photo"


def _picture(picture: PictureRef) -> Any:
    if isinstance(picture, InlinePicture):
        return raw_digest(picture.content)
    return {"bucket": picture.bucket, "key": picture.key}


def _canonical(parts: dict[str, Any]) -> bytes:
    text = _encoder.encode(parts)
    if "-0.0" in text:  # rare, and looking for it in the text costs less than walking through every number
        text = _encoder.encode(_without_negative_zero(parts))
    return text.encode()


def _without_negative_zero(value: Any) -> Any:
    """Adding 0.0 turns -0.0, which compares equal to 0.0 and paints the same, into 0.0."""
    if isinstance(value, float):
        return value + 0.0
    if isinstance(value, dict):
        return {key: _without_negative_zero(part) for key, part in value.items()}
    if isinstance(value, tuple):
        return [_without_negative_zero(part) for part in value]
    return value
