"""Keypoints in JSON, however the field's tools write them, as a request's `pose`: one answer for every way in.

`darkroom send --pose` and the page's import (`POST /v1/poses`) both read with this. A document is told by its shape,
never by its file's name. What cannot be read is refused under the name of what it is; what is left out is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from darkroom.producer.poses.documents import READERS, Found, PoseJsonRefused, Size, bare_people, size_in
from darkroom.schemas.events.keypoints import Keypoint, is_in_picture
from darkroom.schemas.events.pose import PEOPLE_MAX, PeoplePose

POSE_JSON_BYTES_MAX: Final = 4 * 1024 * 1024
"""A person with hands and face takes some 8 KiB; whatever is larger is a film's."""
TOO_LARGE: Final = (
    f"has more than the {POSE_JSON_BYTES_MAX} bytes that are read of keypoints.",
    "Keep only the frame that is meant in the file.",
)
_FRACTION_MAX: Final = 4.0
"""Nobody is this few pixels large: where no coordinate is above it, all of them are fractions of the picture, whatever
size stands beside them. Tools write fractions and pixels under the same names."""
_OUTSIDE_MIN, _OUTSIDE_MAX = -1.0, 2.0
"""As far outside of the picture a request's point may lie (`darkroom.schemas.events.pose.Coordinate`)."""

READ_FORMATS: Final = (
    "a pose of Darkroom's ({\"people\": [[[x, y], ...]]}), OpenPose's JSON, COCO's annotations or results, and what "
    "MMPose, Ultralytics, rtmlib, TensorFlow.js, MediaPipe and Label Studio write"
)


class PoseRead(NamedTuple):
    """Poses read from a document."""

    pose: dict[str, Any]
    """A request's `pose`."""
    notes: tuple[str, ...]
    """What was left out or taken for granted: half sentences that begin with their subject."""


def read_pose(document: Any, size: Size | None = None) -> PoseRead:
    """Read a JSON document as a pose.

    `size` is that of the picture which its coordinates are pixels of, where the caller knows it. Raises
    `PoseJsonRefused`.
    """
    if isinstance(document, dict) and isinstance(document.get("pose"), dict):
        document = document["pose"]
    if isinstance(document, dict) and ("image" in document or "photo" in document) and "people" not in document:
        return PoseRead(document, ())
    if size is None and _is_ours(document):
        return PoseRead(document, ())
    for reader in READERS:
        if reader.recognises(document):
            return _settled(reader.read(document), size)
    if isinstance(document, dict) and isinstance(document.get("people"), list):
        return _settled(bare_people(document["people"], size=size_in(document, "canvas_width", "canvas_height")), size)
    if isinstance(document, list):
        return _settled(bare_people(document), size)
    raise PoseJsonRefused("has no keypoints in a form that is known.", f"Read are {READ_FORMATS}.")


def _is_ours(document: Any) -> bool:
    """Whether it is a request's pose of 18 points as it stands."""
    try:
        pose = PeoplePose.model_validate(document)
    except ValidationError:
        return False
    return pose.format == "coco18" and pose.shows_somebody


def _settled(found: Found, size: Size | None) -> PoseRead:
    """The people as fractions of the picture, without those and that which cannot be drawn."""
    notes = list(found.notes)
    bodies = [person for person in found.people if any(person)]
    if not bodies:
        raise PoseJsonRefused(f"shows nobody{found.where}: no body point of anybody is seen.", _nobody_remedy(found))
    if len(bodies) < len(found.people):
        notes.append(f"{_people(len(found.people) - len(bodies))} without a body point left out")
    scale = _scale(bodies, found, size)
    fractions = [[_divided(point, scale) for point in person] for person in bodies]
    far = sum(point is not None and not _is_near(point) for person in fractions for point in person)
    if far:
        notes.append(f"{far} point{'s' if far > 1 else ''} far outside of the picture left out")
    near = [tuple(point if point and _is_near(point) else None for point in person) for person in fractions]
    shown = [person for person in near if is_in_picture(person)]
    if not shown:
        raise PoseJsonRefused(
            "shows nobody within the picture: all points lie outside of it.",
            "Check the size of the picture that the coordinates are of.",
        )
    if len(shown) < len(near):
        notes.append(f"{_people(len(near) - len(shown))} outside of the picture left out")
    if len(shown) > PEOPLE_MAX:
        notes.append(f"{len(shown)} people are more than the {PEOPLE_MAX} of a pose: the largest {PEOPLE_MAX} are used")
        largest = sorted(range(len(shown)), key=lambda index: _area(shown[index]), reverse=True)[:PEOPLE_MAX]
        shown = [shown[index] for index in sorted(largest)]
    people = [[None if point is None else list(point) for point in person] for person in shown]
    return PoseRead({"people": people, "format": "coco18"}, tuple(dict.fromkeys(notes)))


def _nobody_remedy(found: Found) -> str:
    if found.where:
        return "Keep only the frame that is meant in the file."
    return "Write it again with the body's detection on; face and hands alone are no pose here."


def _scale(bodies: Sequence[Sequence[Keypoint]], found: Found, size: Size | None) -> Size:
    """By what x and y are divided: (1, 1) for what is in fractions. Raises `PoseJsonRefused` where nobody can tell."""
    values = [value for person in bodies for point in person if point is not None for value in point]
    if found.in_fractions or max(map(abs, values)) <= _FRACTION_MAX:
        if found.may_be_centred and min(values) < 0:
            raise PoseJsonRefused(
                "has coordinates from -1 to 1, as OpenPose's --keypoint_scale 4 writes them.",
                "Run OpenPose with --keypoint_scale 3 (0 to 1) or 0 (pixels).",
            )
        return 1, 1
    pixels = size or found.size
    if pixels is None:
        raise PoseJsonRefused(
            f"has keypoints in pixels ({found.writer}), and does not say of how large a picture.",
            "Say it: --pose-size WIDTHxHEIGHT for `darkroom send`, ?size=WIDTHxHEIGHT for POST /v1/poses; or write "
            "OpenPose's JSON with canvas_width and canvas_height.",
        )
    return pixels


def _divided(point: Keypoint, scale: Size) -> Keypoint:
    return None if point is None else (point[0] / scale[0], point[1] / scale[1])


def _is_near(point: tuple[float, float]) -> bool:
    return all(_OUTSIDE_MIN <= value <= _OUTSIDE_MAX for value in point)


def _area(person: Sequence[Keypoint]) -> float:
    seen = [point for point in person if point is not None]
    across, down = [point[0] for point in seen], [point[1] for point in seen]
    # Rounded, so that of people of one size the first ones are kept.
    return round((max(across) - min(across)) * (max(down) - min(down)), 6)


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"
