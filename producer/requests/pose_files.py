"""Poses as people have them in files: keypoints in the ways that tools write them, skeleton pictures, photos.

What is read becomes a request's `pose` as JSON. Whether its numbers are lawful is left to the request's decoder, so
that a refusal has the same words as at the worker.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from producer.requests.request_files import RequestUnreadable
from schemas.pose import INLINE_BYTES_MAX, POINTS
from schemas.strictjson import read_json

_FILE_BYTES_MAX: Final = 8 * 1024 * 1024
"""More than this is read of no pose file, to say how large it is."""
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
"""How PNG, JPEG and WebP files begin."""
_FORMATS: Final = {points: name for name, points in POINTS.items()}
_BODY_25: Final = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
"""For each coco18 point its place among the 25 of OpenPose's newer model, which has hips' middle and feet besides."""

Size = tuple[int, int]
"""Width and height in pixels."""


def pose_of(path: Path, size: Size | None = None) -> dict[str, Any]:
    """What a file of keypoints or a skeleton picture says, as a request's `pose`.

    JSON is a request's pose (`{"people": ...}` and the others), a list of people, a list of one person's points, or
    what OpenPose writes: `{"people": [{"pose_keypoints_2d": [x, y, confidence, ...]}]}` in pixels, with
    `canvas_width` and `canvas_height` where whoever wrote it knew them. 17 points are coco17, 18 coco18; OpenPose's 25
    become coco18. `size` is that of the picture which the keypoints are pixels of: without it they are fractions,
    OpenPose's excepted. A PNG, JPEG or WebP picture is taken for an OpenPose skeleton and carried inline, up to
    512 KiB. Raises `RequestUnreadable`.
    """
    content = _content(path)
    if content.startswith(_PICTURES):
        return {"image": _inline(path, content)}
    document = read_json(content)
    found = document.value
    if document.flaw is None and isinstance(found, list) and found:
        if isinstance(found[0], dict):
            # Editors of poses write a list with one such frame.
            found = found[0]
        else:
            people = [found] if _is_point(next((one for one in found if one is not None), None)) else found
            return _people(people, size)
    if document.flaw is None and isinstance(found, dict):
        return _openpose(path, found, size) if _is_openpose(found) else _own(found, size)
    raise RequestUnreadable(
        f"{path} is neither JSON with keypoints nor a PNG, JPEG or WebP picture. See `darkroom schemas --only request` "
        "for how a pose is written."
    )


def photo_of(path: Path) -> dict[str, Any]:
    """A photo, carried inline, as a request's `pose`. Raises `RequestUnreadable`."""
    content = _content(path)
    if not content.startswith(_PICTURES):
        raise RequestUnreadable(f"{path} is no PNG, JPEG or WebP picture. Save the photo as one of them.")
    return {"photo": _inline(path, content)}


def size_of(text: str) -> Size:
    """The size that is written `WIDTHxHEIGHT`. Raises `ValueError`."""
    width, _, height = text.partition("x")
    if not (width.isascii() and height.isascii() and width.isdigit() and height.isdigit()):
        raise ValueError("write width x height in pixels, as 1280x720")
    if not (0 < int(width) <= 100_000 and 0 < int(height) <= 100_000):
        raise ValueError("width and height are 1 to 100000 pixels")
    return int(width), int(height)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise RequestUnreadable(
            f"{path} cannot be read ({error.strerror}). Check the path of the pose file."
        ) from error


def _inline(path: Path, content: bytes) -> dict[str, str]:
    if len(content) > INLINE_BYTES_MAX:
        raise RequestUnreadable(
            f"{path} has more than the {INLINE_BYTES_MAX} bytes that a picture in a request may have. Make it "
            "smaller (nothing is looked at beyond some 1,000 pixels), or put it in the bucket and name it by bucket "
            "and key in a file of requests."
        )
    return {"inline": base64.b64encode(content).decode()}


def _own(pose: dict[str, Any], size: Size | None) -> dict[str, Any]:
    people = pose.get("people")
    if size is None or not isinstance(people, list):
        return pose
    return {**pose, "people": [_scaled(person, size) for person in people]}


def _people(people: Sequence[Any], size: Size | None) -> dict[str, Any]:
    """A pose of people without a word of their format, which the number of their points tells."""
    first = people[0]
    name = _FORMATS.get(len(first)) if isinstance(first, list) else None
    pose: dict[str, Any] = {"people": list(people)} if name is None else {"people": list(people), "format": name}
    return _own(pose, size)


def _scaled(person: Any, size: Size) -> Any:
    if not isinstance(person, list):
        return person
    return [[point[0] / size[0], point[1] / size[1]] if _is_point(point) else point for point in person]


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_number(part) for part in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_openpose(document: dict[str, Any]) -> bool:
    people = document.get("people")
    return isinstance(people, list) and any(isinstance(one, dict) for one in people)


def _openpose(path: Path, document: dict[str, Any], size: Size | None) -> dict[str, Any]:
    if size is None:
        size = _canvas(path, document)
    people = []
    for number, one in enumerate(document["people"]):
        numbers = one.get("pose_keypoints_2d") if isinstance(one, dict) else None
        if not isinstance(numbers, list) or len(numbers) not in (51, 54, 75) or not all(map(_is_number, numbers)):
            raise RequestUnreadable(
                f"Person {number} in {path} has no pose_keypoints_2d of 17, 18 or 25 points, three numbers each "
                "(x, y, confidence). Let OpenPose write it again, with --write_json."
            )
        points = [_seen(*numbers[index : index + 3]) for index in range(0, len(numbers), 3)]
        people.append([points[place] for place in _BODY_25] if len(points) == 25 else points)
    return _people(people, size)


def _seen(x: float, y: float, confidence: float) -> list[float] | None:
    """OpenPose writes three zeros for a point that it did not see."""
    return [x, y] if confidence > 0 else None


def _canvas(path: Path, document: dict[str, Any]) -> Size:
    width, height = document.get("canvas_width"), document.get("canvas_height")
    if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
        return width, height
    raise RequestUnreadable(
        f"{path} has keypoints in pixels, and does not say of how large a picture: add --pose-size WIDTHxHEIGHT, or "
        "canvas_width and canvas_height to the file."
    )
