"""The JSON documents in which the field's tools write keypoints: how each is told from the others, and its people.

A reader takes the unit as it stands; `darkroom.producer.poses.keypoints` decides between pixels and fractions for all
alike. A new tool is one more row of `READERS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from darkroom.producer.poses.layouts import (
    BLAZEPOSE_POINTS,
    CONFIDENCE_MIN,
    OPENPOSE_CONFIDENCE_MIN,
    VISIBILITY_MIN,
    LayoutUnknown,
    arranged,
    by_name,
)
from darkroom.schemas.events.keypoints import Keypoint

Size = tuple[float, float]
"""Width and height in pixels."""
_SIZE_MAX: Final = 100_000
_UNSEEN: Final = ((0.0, 0.0), (-1.0, -1.0))
"""Coordinates that tools write for a point that is not there, with a confidence beside them or without."""

Person = tuple[Keypoint, ...]


class PoseJsonRefused(Exception):  # noqa: N818 - what was found
    """A document that is no pose: `what` continues "The file ...", `remedy` is a sentence."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what} {remedy}")
        self.what = what
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Found:
    """The people of a document, as coco18, in the document's own unit."""

    writer: str
    people: Sequence[Person]
    size: Size | None = None
    """Of the picture that the coordinates are pixels of, where the document says it."""
    notes: tuple[str, ...] = ()
    where: str = ""
    """Which part of the document was looked at, for `shows nobody ...`."""
    in_fractions: bool = False
    """Whether this writer has no other unit."""
    may_be_centred: bool = False
    """Whether this writer can be told to count from -1 to 1."""


class Reader(NamedTuple):
    """One way of writing."""

    recognises: Callable[[Any], bool]
    read: Callable[[Any], Found]


def size_in(document: Mapping[str, Any], width: str, height: str) -> Size | None:
    """Return the size that two members name, whole or not; None where they name none."""
    sides = number(document.get(width)), number(document.get(height))
    if sides[0] is None or sides[1] is None or not all(0 < side <= _SIZE_MAX for side in sides if side is not None):
        return None
    return sides[0], sides[1]


def number(value: Any) -> float | None:
    """Return a finite JSON number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


# --- Points ---------------------------------------------------------------------------------------------


def _point(x: Any, y: Any, confidence: Any, confidence_min: float, who: str) -> Keypoint:
    """One point; `confidence` is None where the document has none. Raises `PoseJsonRefused` for what is no number."""
    if x is None and y is None:
        return None
    across, down = number(x), number(y)
    sure = 1.0 if confidence is None else number(confidence)
    if across is None or down is None or sure is None:
        raise PoseJsonRefused(
            f"has a point that is not made of numbers ({who}).", "Write [x, y], or null where unseen."
        )
    if sure < confidence_min or (across, down) in _UNSEEN:
        return None
    return across, down


def _triples(flat: Sequence[Any], confidence_min: float, who: str) -> list[Keypoint]:
    """x, y and confidence in a row. COCO's visibility (0, 1 or 2) counts like one: 1 is placed, though hidden."""
    if len(flat) % 3:
        raise PoseJsonRefused(
            f"has {len(flat)} numbers for {who}, which are not three a point.", "Write x, y and confidence of each."
        )
    places = zip(flat[0::3], flat[1::3], flat[2::3], strict=True)
    return [_point(x, y, confidence, confidence_min, who) for x, y, confidence in places]


def _rows(rows: Sequence[Any], who: str, scores: Sequence[Any] | None = None) -> list[Keypoint]:
    """[x, y] or [x, y, score], or null. `scores` stand beside them where the writer keeps them apart."""
    points: list[Keypoint] = []
    for index, row in enumerate(rows):
        if row is None:
            points.append(None)
            continue
        if not isinstance(row, list) or len(row) not in (2, 3):
            raise PoseJsonRefused(
                f"has a point that is not [x, y] or [x, y, score] ({who}).", "Write null where a point is not seen."
            )
        score = scores[index] if scores is not None and index < len(scores) else (row[2] if len(row) == 3 else None)
        points.append(_point(row[0], row[1], score, CONFIDENCE_MIN, who))
    return points


def _arranged(people: Sequence[Sequence[Keypoint]], writer: str) -> tuple[list[Person], tuple[str, ...]]:
    bodies, notes = [], []
    for points in people:
        try:
            body, note = arranged(points)
        except LayoutUnknown as unknown:
            raise PoseJsonRefused(f"has {unknown.what} ({writer}).", unknown.remedy) from unknown
        bodies.append(body)
        notes += [note] if note else []
    return bodies, tuple(dict.fromkeys(notes))


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _first(document: Any) -> dict[str, Any]:
    """The first object of a list, or the object itself; empty where there is none."""
    if isinstance(document, list):
        document = document[0] if document else None
    return document if isinstance(document, dict) else {}


def _of_first(what: str, count: int) -> tuple[tuple[str, ...], str]:
    """The note that the first of several was looked at, and where that was."""
    if count < 2:
        return (), ""
    return (f"the file has {count} {what}s: the first one was used",), f" in the first of its {count} {what}s"


# --- OpenPose, and the editors and nodes that write as it does -------------------------------------------

_BODY: Final = ("pose_keypoints_2d", "pose_keypoints")
"""Its name, and that of OpenPose before 1.3."""
_OTHER_PARTS: Final = ("face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d")


def _is_openpose(document: Any) -> bool:
    frames = document if isinstance(document, list) else [document]
    if not frames or not all(isinstance(frame, dict) for frame in frames):
        return False
    if any("animals" in frame for frame in frames):
        return True
    return all(isinstance(frame.get("people"), list) for frame in frames) and (
        isinstance(document, list) or not document["people"] or any(isinstance(one, dict) for one in document["people"])
    )


def _openpose(document: Any) -> Found:
    frames = document if isinstance(document, list) else [document]
    notes, where = _of_first("frame", len(frames))
    frame = frames[0]
    written = frame.get("people")
    written = written if isinstance(written, list) else []
    if not written and frame.get("animals"):
        raise PoseJsonRefused(
            "has animals (AP10K), and no people.", "Animals are no pose here: write people's keypoints."
        )
    people, parts = [], False
    for index, one in enumerate(written):
        points = _openpose_body(one, index)
        people.append(points)
        parts = parts or any(_has_points(one.get(name)) for name in _OTHER_PARTS)
    bodies, more = _arranged([points or [None] * 18 for points in people], "OpenPose's JSON")
    if parts:
        more += ("hands and face are not drawn and were left out",)
    size = size_in(frame, "canvas_width", "canvas_height")
    return Found("OpenPose's JSON", bodies, size, notes + more, where, may_be_centred="canvas_width" not in frame)


def _openpose_body(person: Any, index: int) -> list[Keypoint]:
    """The body's points; none where only hands or a face were seen of this person."""
    wanted = "Let OpenPose write it again, with --write_json."
    if not isinstance(person, dict):
        raise PoseJsonRefused(f"has a person {index} that is no object with pose_keypoints_2d.", wanted)
    flat = next((person[name] for name in _BODY if person.get(name) is not None), None)
    if flat is None:
        return []
    if not isinstance(flat, list) or not all(number(value) is not None for value in flat):
        raise PoseJsonRefused(f"has no numbers in person {index}'s pose_keypoints_2d.", wanted)
    return _triples(flat, OPENPOSE_CONFIDENCE_MIN, f"person {index}")


def _has_points(flat: Any) -> bool:
    return isinstance(flat, list) and any(number(value) for value in flat)


# --- COCO: annotations and results; AlphaPose and others write the latter too ------------------------------


def _is_coco_annotations(document: Any) -> bool:
    return isinstance(document, dict) and any("keypoints" in one for one in _dicts(document.get("annotations")))


def _coco_annotations(document: dict[str, Any]) -> Found:
    found = _coco([one for one in _dicts(document["annotations"]) if "keypoints" in one], "COCO's annotations")
    shown = _dicts(document["annotations"])[0].get("image_id")
    image = next((one for one in _dicts(document.get("images")) if one.get("id") == shown), {})
    return Found(found.writer, found.people, size_in(image, "width", "height"), found.notes, found.where)


def _is_coco_results(document: Any) -> bool:
    points = _first(document).get("keypoints")
    return isinstance(points, list) and bool(points) and number(points[0]) is not None


def _coco_results(document: Any) -> Found:
    return _coco(_dicts(document if isinstance(document, list) else [document]), "COCO's results")


def _coco(annotations: list[dict[str, Any]], writer: str) -> Found:
    images = list(dict.fromkeys(str(one.get("image_id")) for one in annotations))
    notes, where = _of_first("picture", len(images))
    people = [
        _triples(points, CONFIDENCE_MIN, f"person {index}")
        for index, one in enumerate(annotations)
        if str(one.get("image_id")) == images[0] and isinstance(points := one.get("keypoints"), list)
    ]
    bodies, more = _arranged(people, writer)
    return Found(writer, bodies, None, notes + more, where)


# --- MMPose, Ultralytics, TensorFlow.js, an OpenPose editor -------------------------------------------------


def _mmpose_instances(document: Any) -> tuple[list[dict[str, Any]], int]:
    """The people of the first frame, and how many frames there are."""
    if isinstance(document, dict):
        document = document.get("instance_info") or document.get("predictions")
    if not isinstance(document, list) or not document:
        return [], 0
    first = document[0]
    if isinstance(first, list):  # a list of people for each picture
        return _dicts(first), len(document)
    if isinstance(first, dict) and "instances" in first:
        return _dicts(first["instances"]), len(document)
    return _dicts(document), 1


def _is_mmpose(document: Any) -> bool:
    return "keypoint_scores" in _first(_mmpose_instances(document)[0])


def _mmpose(document: Any) -> Found:
    instances, frames = _mmpose_instances(document)
    notes, where = _of_first("frame", frames)
    people = [
        _rows(rows, f"person {index}", one["keypoint_scores"] if isinstance(one.get("keypoint_scores"), list) else None)
        for index, one in enumerate(instances)
        if isinstance(rows := one.get("keypoints"), list)
    ]
    bodies, more = _arranged(people, "MMPose's predictions")
    return Found("MMPose's predictions", bodies, None, notes + more, where)


def _is_ultralytics(document: Any) -> bool:
    return isinstance(_first(document).get("keypoints"), dict)


def _ultralytics(document: Any) -> Found:
    people = []
    for index, one in enumerate(_dicts(document if isinstance(document, list) else [document])):
        points = one.get("keypoints")
        if not isinstance(points, dict):
            continue
        across, down, sure = (points.get(name) for name in ("x", "y", "visible"))
        if not isinstance(across, list) or not isinstance(down, list) or len(across) != len(down):
            raise PoseJsonRefused(
                f"has keypoints without as many x as y (person {index}).", "Write it again with Ultralytics' to_json()."
            )
        sure = sure if isinstance(sure, list) and len(sure) == len(across) else [None] * len(across)
        people.append(
            [_point(x, y, c, CONFIDENCE_MIN, f"person {index}") for x, y, c in zip(across, down, sure, strict=True)]
        )
    bodies, notes = _arranged(people, "Ultralytics' to_json()")
    return Found("Ultralytics' to_json()", bodies, None, notes)


def _is_tfjs(document: Any) -> bool:
    points = _dicts(_first(document).get("keypoints"))
    return bool(points) and ("name" in points[0] or "part" in points[0])


def _tfjs(document: Any) -> Found:
    people = []
    for index, one in enumerate(_dicts(document if isinstance(document, list) else [document])):
        named: dict[str, Keypoint] = {}
        for point in _dicts(one.get("keypoints")):
            place = point.get("position", point)
            x, y = (place.get("x"), place.get("y")) if isinstance(place, dict) else (None, None)
            label = str(point.get("name", point.get("part")))
            named[label] = _point(x, y, point.get("score"), CONFIDENCE_MIN, f"person {index}")
        body = by_name(named)
        if body is not None:
            people.append(body)
    return Found("TensorFlow.js' poses", people)


def _is_editor(document: Any) -> bool:
    return isinstance(document, dict) and isinstance(document.get("keypoints"), list) and "width" in document


def _editor(document: dict[str, Any]) -> Found:
    found = bare_people(document["keypoints"], size=size_in(document, "width", "height"))
    return Found("an OpenPose editor's JSON", found.people, found.size, found.notes)


# --- MediaPipe ----------------------------------------------------------------------------------------------

_LANDMARKS: Final = ("landmark", "landmarks", "pose_landmarks", "poseLandmarks")


def _landmarks(document: Any) -> list[list[dict[str, Any]]]:
    """A list of landmarks for each person, in any of the ways that MediaPipe's languages write them."""
    if isinstance(document, dict):
        document = next((document[name] for name in _LANDMARKS if name in document), None)
        if isinstance(document, dict):
            return _landmarks(document)
    if not isinstance(document, list) or not document:
        return []
    people = document if isinstance(document[0], list) else [document]
    if isinstance(document[0], dict) and any(name in document[0] for name in _LANDMARKS):
        people = [person for one in document for person in _landmarks(one)]
    lists = [_dicts(person) for person in people]
    return lists if lists and lists[0] and {"x", "y"} <= lists[0][0].keys() else []


def _is_mediapipe(document: Any) -> bool:
    return bool(_landmarks(document))


def _mediapipe(document: Any) -> Found:
    people = []
    for index, landmarks in enumerate(_landmarks(document)):
        if len(landmarks) == BLAZEPOSE_POINTS and not any("visibility" in point for point in landmarks):
            raise _without_visibility()
        people.append(
            [
                _point(point.get("x"), point.get("y"), point.get("visibility"), VISIBILITY_MIN, f"person {index}")
                for point in landmarks
            ]
        )
    bodies, notes = _arranged(people, "MediaPipe's landmarks")
    return Found("MediaPipe's landmarks", bodies, None, notes, in_fractions=True)


def _without_visibility() -> PoseJsonRefused:
    return PoseJsonRefused(
        "has MediaPipe's 33 points without their visibility, and MediaPipe places also what it does not see.",
        "Write each as [x, y, z, visibility], or its landmarks as objects with x, y and visibility.",
    )


# --- Label Studio -------------------------------------------------------------------------------------------


def _is_label_studio(document: Any) -> bool:
    return any("result" in one for one in _dicts(_first(document).get("annotations")))


def _label_studio(document: Any) -> Found:
    """Its coordinates are percent; which points are one person's is not said, so there may be one."""
    tasks = document if isinstance(document, list) else [document]
    notes, where = _of_first("task", len(tasks))
    named: dict[str, Keypoint] = {}
    results = next(one["result"] for one in _dicts(tasks[0]["annotations"]) if "result" in one)
    for one in _dicts(results):
        value = one.get("value")
        labels = value.get("keypointlabels") if isinstance(value, dict) else None
        if not isinstance(value, dict) or not isinstance(labels, list) or not labels:
            continue
        label = str(labels[0])
        if label in named:
            raise PoseJsonRefused(
                f"has the label {label[:40]!r} twice (Label Studio's annotations), and not which person each is of.",
                "Keep the points of one person in a task.",
            )
        place = _point(value.get("x"), value.get("y"), None, 0.0, label[:40])
        named[label] = None if place is None else (place[0] / 100, place[1] / 100)
    body = by_name(named)
    if named and body is None:
        raise PoseJsonRefused(
            "has labels that are no joints (Label Studio's annotations).",
            "Name them nose, left_eye, right_shoulder and so on.",
        )
    return Found("Label Studio's annotations", [body] if body else [], None, notes, where, in_fractions=True)


# --- Lists of points without a word of who wrote them -------------------------------------------------------


def bare_people(value: list[Any], size: Size | None = None) -> Found:
    """Read a list of people, each a list of points, or of one person's points. Raises `PoseJsonRefused`."""
    seen = [one for one in value if one is not None]
    is_one = bool(seen) and isinstance(seen[0], list) and (not seen[0] or number(seen[0][0]) is not None)
    people = [value] if is_one and _is_point(seen[0]) else value
    rows = []
    for index, person in enumerate(people):
        if not isinstance(person, list):
            raise PoseJsonRefused(
                f"has a person {index} that is no list of points.", "Write [[x, y], ...] for each, null where unseen."
            )
        rows.append(_blazepose(person, index) if len(person) == BLAZEPOSE_POINTS else _rows(person, f"person {index}"))
    bodies, notes = _arranged(rows, "a list of points")
    return Found("a list of points", bodies, size, notes)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and 2 <= len(value) <= 4 and all(number(part) is not None for part in value)


def _blazepose(person: list[Any], index: int) -> list[Keypoint]:
    """33 points are MediaPipe's: [x, y, z, visibility], or nobody can say which of them it saw."""
    if not all(isinstance(point, list) and len(point) == 4 for point in person):
        raise _without_visibility()
    return [_point(point[0], point[1], point[3], VISIBILITY_MIN, f"person {index}") for point in person]


# --- Known, and not read --------------------------------------------------------------------------------------


def _is_labelme(document: Any) -> bool:
    return isinstance(document, dict) and isinstance(document.get("shapes"), list)


def _labelme(_document: Any) -> Found:
    raise PoseJsonRefused("is labelme's.", "Export it as COCO's keypoints.")


def _is_via(document: Any) -> bool:
    return isinstance(document, dict) and any("_via" in name for name in document)


def _via(_document: Any) -> Found:
    raise PoseJsonRefused("is a project of the VGG Image Annotator.", "Export it as COCO's keypoints.")


READERS: Final[tuple[Reader, ...]] = (
    Reader(_is_openpose, _openpose),
    Reader(_is_coco_annotations, _coco_annotations),
    Reader(_is_label_studio, _label_studio),
    Reader(_is_mmpose, _mmpose),
    Reader(_is_ultralytics, _ultralytics),
    Reader(_is_tfjs, _tfjs),
    Reader(_is_coco_results, _coco_results),
    Reader(_is_editor, _editor),
    Reader(_is_mediapipe, _mediapipe),
    Reader(_is_labelme, _labelme),
    Reader(_is_via, _via),
)
"""In the order in which they are asked."""
