"""Reads the body of `POST /v1/images/generations` as a request of ours, and how the pictures are to be returned.

What OpenAI's fields ask for is translated where a field of ours does the same, and refused where nothing does: nothing
is painted as something else. Every other member of the body is a field of our own request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Literal

from darkroom.producer.gateway.problems import Problem, invalid
from darkroom.schemas.errors import bounded
from darkroom.schemas.events.fields import LABEL_VALUE_CHARACTERS_MAX

PARTIAL_IMAGES_MAX: Final = 3
"""OpenAI's own limit."""
_SIZE: Final = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")
_PRESETS: Final = {
    "auto": None,
    "low": "fast",
    "standard": "fast",
    "medium": "fast",
    "high": "quality",
    "hd": "quality",
    "xhigh": "quality",
    "max": "quality",
}
"""Our preset for each `quality`, those of retired models included; None leaves it to the request's other fields."""
_FORMATS: Final = ("png", "webp", "jpeg")
_AS_IF_ABSENT: Final[dict[str, tuple[Any, ...]]] = {
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "style": ("vivid",),
}
"""Values that ask for what happens anyway: pictures are opaque, the operator's policy always applies, and older clients
send DALL-E 3's default style."""
_NOWHERE: Final = ("complexity", "frame_count", "frame_duration_ms", "svg", "input_fidelity")
"""Fields of OpenAI's that would change the picture, and that SDXL has no counterpart of."""
_LABELS: Final = ("user", "safety_identifier")

ReplyFormat = Literal["b64_json", "url"]


@dataclass(frozen=True, slots=True)
class Reply:
    """Form of the answer that a caller wants."""

    response_format: ReplyFormat
    is_stream: bool
    partial_images: int
    """Previews to send while the picture is painted, 0-3."""
    quality: str
    """As it was asked for; `auto` where it was not."""


def order_of(body: dict[str, Any], models: Sequence[str]) -> tuple[dict[str, Any], Reply]:
    """Return the request's document, not yet validated, and the reply that is wanted.

    `models` are the names that `model` may have. Raises `Problem`, with OpenAI's name of the field in `param`.
    """
    document = {name: value for name, value in body.items() if value is not None}
    check_model(document.pop("model", None), models)
    for name in _NOWHERE:
        if name in document:
            raise _refused(name, f"{name} is not offered here: SDXL has no counterpart of it.")
    for name, taken in _AS_IF_ABSENT.items():
        if name in document and document.pop(name) not in taken:
            raise _refused(name, f"{name} may be {' or '.join(taken)} here, or absent.")
    _move(document, "n", "count")
    _read_size(document)
    quality = _read_quality(document)
    _read_output(document)
    _read_labels(document)
    is_stream = _flag(document, "stream")
    partial_images = _whole(document, "partial_images", PARTIAL_IMAGES_MAX, default=0)
    if partial_images and not is_stream:
        raise _refused("partial_images", "partial_images needs stream to be true.")
    reply_format = document.pop("response_format", "b64_json")
    if reply_format not in ("b64_json", "url"):
        raise _refused("response_format", "response_format must be b64_json or url.")
    if is_stream and reply_format == "url":
        raise _refused("response_format", "A stream has its pictures inside: leave response_format out.")
    if partial_images:
        document.setdefault("progress", "previews")
    return document, Reply(reply_format, is_stream, partial_images, quality)


def check_model(name: object, models: Sequence[str]) -> None:
    """Raise `Problem` 404 for a model that is not taken. None and an empty name are the only model there is."""
    if name is not None and name != "" and name not in models:
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "model_not_found",
            f"There is no model {bounded(str(name), 80)!r} here.",
            f"Use {' or '.join(models)}, or leave `model` out; the operator sets the names that are taken.",
            param="model",
        )


def _read_size(document: dict[str, Any]) -> None:
    size = document.pop("size", "auto")
    if size == "auto":
        return
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None:
        raise _refused("size", "size must be auto or WIDTHxHEIGHT in pixels, 1024x1024 for example.")
    for name, pixels in zip(("width", "height"), found.groups(), strict=True):
        if name in document:
            raise _refused("size", f"Give either size or {name}.")
        document[name] = int(pixels)


def _read_quality(document: dict[str, Any]) -> str:
    quality = document.pop("quality", "auto")
    if not isinstance(quality, str) or quality not in _PRESETS:
        raise _refused("quality", f"quality must be one of {', '.join(_PRESETS)}.")
    preset = _PRESETS[quality]
    if preset is not None:
        document.setdefault("preset", preset)
    return quality


def _read_output(document: dict[str, Any]) -> None:
    """Translate `output_format` and `output_compression`, which despite its name is the encoder's quality."""
    theirs = ("output_format", "output_compression")
    asked: dict[str, Any] = {name: document.pop(name) for name in theirs if name in document}
    if not asked:
        return
    if "output" in document:
        raise _refused(min(asked), f"Give either output or {min(asked)}.")
    if (kind := asked.get("output_format", "png")) not in _FORMATS:
        raise _refused("output_format", f"output_format must be one of {', '.join(_FORMATS)}.")
    quality = _whole(asked, "output_compression", 100, default=100)
    if kind == "png" and quality != 100:
        raise _refused("output_compression", "output_compression is for output_format webp and jpeg.")
    document["output"] = {"format": kind} if kind == "png" else {"format": kind, "quality": max(1, quality)}


def _read_labels(document: dict[str, Any]) -> None:
    """Keep OpenAI's names of the end user as labels, which the completion returns."""
    said = {name: value for name in _LABELS if (value := document.pop(name, "")) != ""}
    for name, value in said.items():
        if not isinstance(value, str) or len(value) > LABEL_VALUE_CHARACTERS_MAX:
            raise _refused(name, f"{name} must be a text of at most {LABEL_VALUE_CHARACTERS_MAX} characters.")
    labels = document.get("labels", {})
    if said and isinstance(labels, dict):  # otherwise the decoder refuses the labels in its own words
        document["labels"] = {**said, **labels}


def _move(document: dict[str, Any], theirs: str, ours: str) -> None:
    if theirs not in document:
        return
    if ours in document:
        raise _refused(theirs, f"Give either {theirs} or {ours}.")
    document[ours] = document.pop(theirs)


def _flag(document: dict[str, Any], name: str) -> bool:
    value = document.pop(name, False)
    if not isinstance(value, bool):
        raise _refused(name, f"{name} must be true or false.")
    return value


def _whole(document: dict[str, Any], name: str, highest: int, *, default: int) -> int:
    value = document.pop(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= highest:
        raise _refused(name, f"{name} must be a whole number from 0 to {highest}.")
    return value


def _refused(param: str, detail: str) -> Problem:
    return invalid(detail, param=param)
