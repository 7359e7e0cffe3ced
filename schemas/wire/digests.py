"""Digests of what was asked and of what decides the pixels, and the text that a picture carries about both.

A digest is SHA-256 over canonical JSON: keys sorted, no white space, ASCII, numbers in Python's shortest form (whole
fractions as `5.0`, zero never negative). So it does not depend on the order of fields, on unknown fields, or on whether
a default was written out. Which fields it covers follows from their `FieldFacts`.

`request_digest` decides conflicts: the same (tenant, request id) with another digest is another request. It covers
what the requester gets: neither the identity nor how the request is to be treated. The `preset` is covered by its
steps.

`render_digest` decides pictures: it leaves out what cannot change a pixel (control settings without a pose, the quality
of a PNG) and adds the model's revision, the sampler's version, the adapters' digests and, for a photo, the detector's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from pydantic import BaseModel

from darkroom.schemas.events.controls import OPENPOSE
from darkroom.schemas.events.fields import FieldFacts, Named, facts_of
from darkroom.schemas.events.keypoints import PoseStyle
from darkroom.schemas.events.pose import InlinePicture, PhotoPose, SkeletonPose
from darkroom.schemas.events.request import (
    COUNT_MAX,
    SEED_MAX,
    Adapter,
    GenerationRequest,
    adapters_of,
    effective_steps,
    with_pose,
)
from darkroom.schemas.prompts.embeddings import embeddings_in

DERIVED_SEED_MAX: Final = SEED_MAX - COUNT_MAX
"""The largest derived seed: with any count the last image's seed stays in range."""

_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


class _Part(NamedTuple):
    """One field of a model, as a digest or a picture's text names it."""

    name: str
    default: Any
    """What the field's value must differ from to be named; `_REQUIRED` where it is named whatever it is."""
    idle_when: tuple[str, Any] | None


_REQUIRED: Final = object()
_NO_PICTURES: Final[Mapping[str, bytes]] = MappingProxyType({})
_NO_DIGESTS: Final[Mapping[str, str]] = MappingProxyType({})


def raw_digest(value: bytes) -> str:
    """Return `sha256:` and 64 hexadecimal digits over the bytes as they are."""
    return f"sha256:{hashlib.sha256(value).hexdigest()}"


def derived_seed(tenant: str, request_id: str) -> int:
    """Return the first image's seed of a request that names none, 0 to `DERIVED_SEED_MAX`: the same in each replay."""
    digest = hashlib.sha256(f"{tenant}/{request_id}".encode()).digest()
    return int.from_bytes(digest[:16], "big") % (DERIVED_SEED_MAX + 1)


def request_digest(request: GenerationRequest) -> str:
    """Return the digest of what was asked: equal for two requests that ask for the same thing in other words."""
    return raw_digest(_canonical(_asked(request, with_idle=True)))


def render_digest(
    request: GenerationRequest,
    model_revision: str,
    sampler_version: str,
    *,
    pictures: Mapping[str, bytes] = _NO_PICTURES,
    pose_detector: str | None = None,
    pose_style: PoseStyle = "openpose",
    control_digests: Mapping[str, str] = _NO_DIGESTS,
    adapter_digests: Mapping[str, str] = _NO_DIGESTS,
    watermark: str | None = None,
) -> str:
    """Return the digest of all that decides the pictures.

    `pictures` are the bytes of stored pictures, where they are known, by the field that names them (`pose`,
    `controls.0`): the digest then covers the picture rather than its name, as it always does for an inline one.
    `control_digests` are those of ControlNets beside the model, by the kind that each follows; the digest covers those
    that the request uses. `pose_detector` is the digest of what found the people
    in a photo: two detectors may paint one photo in two ways, and no other request depends on any. `pose_style` is how
    the model wants its skeletons drawn, which a skeleton picture does not depend on. `adapter_digests` are those of the
    files of adapters and textual inversions by name, of which the request's count: a name may come to stand for other
    weights.
    `watermark` names the mark in the pixels, and counts where there is one.
    Width and height count as written; to tell a native size from none, pass a request in which they are filled in.
    """
    request = with_pose(request)
    parts = _asked(request, with_idle=False)
    if request.pose is not None and "pose" in pictures:
        picture_field = next(iter(type(request.pose).model_fields))
        parts["pose"][picture_field] = raw_digest(pictures["pose"])
    for number, part in enumerate(parts.get("controls", ())):
        if (content := pictures.get(f"controls.{number}")) is not None:
            part["image"] = raw_digest(content)
    kinds = {control.kind for control in request.controls} | ({OPENPOSE} if request.pose is not None else set())
    if used := {kind: control_digests[kind] for kind in kinds if kind in control_digests}:
        parts["controlnets"] = used
    if request.init is not None and "init" in pictures:
        parts["init"]["image"] = raw_digest(pictures["init"])
    if request.mask is not None and "mask" in pictures:
        parts["mask"]["image"] = raw_digest(pictures["mask"])
    if isinstance(request.pose, PhotoPose):
        parts["pose_detector"] = pose_detector
    if pose_style != "openpose" and request.pose is not None and not isinstance(request.pose, SkeletonPose):
        parts["pose_style"] = pose_style
    _name_files(parts, request, adapter_digests)
    if watermark is not None:
        parts["watermark"] = watermark
    parts["model_revision"] = model_revision
    parts["sampler_version"] = sampler_version
    return raw_digest(_canonical(parts))


def picture_text(
    request: GenerationRequest, resolved: Mapping[str, Any], *, adapter_digests: Mapping[str, str] = _NO_DIGESTS
) -> dict[str, Any]:
    """Return the fields that it takes to paint a picture again, as JSON: nothing of who painted it or when.

    `resolved` are the values of fields that the request left open (size, steps, seed). An inline picture is named by
    its digest: the picture itself would make a small PNG half a megabyte larger.
    """
    named = {
        part.name: _plain(getattr(request, part.name), _in_digest, with_idle=True)
        for part in _present(request, _in_text, with_idle=False)
    }
    _name_files(named, request, adapter_digests)
    return {**named, **resolved}


def _asked(request: GenerationRequest, *, with_idle: bool) -> dict[str, Any]:
    """Return the parts of a request that say what was asked, with every default filled in."""
    if request.recipe is None:  # a recipe's own fields may yet say how a pose is followed
        request = with_pose(request)
    parts: dict[str, Any] = _plain(request, _in_digest, with_idle=with_idle)
    parts["steps"] = effective_steps(request)
    adapters = [_adapter_part(adapter) for adapter in adapters_of(request)]
    if len(adapters) == 1:
        parts.pop("adapters", None)
        parts["adapter"] = adapters[0]
    elif adapters:
        parts["adapters"] = adapters
    if request.seed is None:
        parts["seed"] = derived_seed(request.tenant, request.request_id)
    return parts


def _adapter_part(adapter: Adapter) -> dict[str, Any]:
    """Return an adapter as digests name it: a text weight that is the weight itself asks for nothing more."""
    part: dict[str, Any] = _plain(adapter, _in_digest, with_idle=True)
    if adapter.text_weight == adapter.weight:
        del part["text_weight"]
    return part


def embeddings_of(request: GenerationRequest) -> tuple[str, ...]:
    """Return the names of the textual inversions in the request's prompts."""
    return embeddings_in(request.prompt, request.negative_prompt, request.prompt_syntax)


def _name_files(parts: dict[str, Any], request: GenerationRequest, digests: Mapping[str, str]) -> None:
    """Add the digests of files to a request's parts: to each adapter, and by name those of the prompts' embeddings."""
    if embeddings := embeddings_of(request):
        parts["embeddings"] = {name: digests.get(name) for name in embeddings}
    for part in (parts.get("adapter"), *parts.get("adapters", ())):
        if part is not None:
            part["digest"] = digests.get(part["name"])


def _in_digest(facts: FieldFacts) -> Named:
    return facts.in_digest


def _in_text(facts: FieldFacts) -> Named:
    return facts.in_text


def _plain(value: Any, named: Callable[[FieldFacts], Named], *, with_idle: bool) -> Any:
    """Return a field's value as JSON, objects by the fields that `named` chooses, inline pictures by their digest."""
    if isinstance(value, InlinePicture):
        return raw_digest(value.content)
    if isinstance(value, BaseModel):
        return {
            part.name: _plain(getattr(value, part.name), named, with_idle=with_idle)
            for part in _present(value, named, with_idle=with_idle)
        }
    if type(value) is tuple and value and isinstance(value[0], BaseModel):
        return [_plain(one, named, with_idle=with_idle) for one in value]
    return value


def _present(model: BaseModel, named: Callable[[FieldFacts], Named], *, with_idle: bool) -> Iterator[_Part]:
    for part in _parts(type(model), named):
        if part.default is not _REQUIRED and getattr(model, part.name) == part.default:
            continue
        if not with_idle and part.idle_when is not None and getattr(model, part.idle_when[0]) == part.idle_when[1]:
            continue
        yield part


@cache
def _parts(model: type[BaseModel], named: Callable[[FieldFacts], Named]) -> tuple[_Part, ...]:
    """Return the fields of a model that may be named. Kept for each model: a digest is made for each record."""
    parts = []
    for name, facts in facts_of(model).items():
        when, field = named(facts), model.model_fields[name]
        if when is Named.NEVER:
            continue
        is_always = when is Named.ALWAYS or field.is_required()
        default = _REQUIRED if is_always else field.get_default(call_default_factory=True, validated_data={})
        parts.append(_Part(name, default, facts.idle_when))
    return tuple(parts)


def _canonical(parts: dict[str, Any]) -> bytes:
    text = _encoder.encode(parts)
    if "-0.0" in text:  # rare, and looking for it in the text costs less than walking through every number
        text = _encoder.encode(_without_negative_zero(parts))
    return text.encode()


def _without_negative_zero(value: Any) -> Any:
    """Return the value with each -0.0, which equals 0.0 and paints the same, as 0.0, which adding 0.0 makes of it."""
    if isinstance(value, float):
        return value + 0.0
    if isinstance(value, dict):
        return {key: _without_negative_zero(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_negative_zero(part) for part in value]
    return value
