"""Readers of what pose detectors write: MMPose, transformers, Ultralytics, TensorFlow.js, MediaPipe, and plain lists.

Sources: MMPose docs/en/user_guides/inference.md; transformers' VitPose post-processing; Ultralytics' Results.to_json;
@tensorflow-models/pose-detection and posenet; ml5; Roboflow's inference API; MediaPipe's pose and holistic landmarkers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from darkroom.producer.poses.documents import (
    CONFIDENCE_MIN,
    Found,
    PoseJsonRefused,
    dicts,
    figures,
    first,
    number,
    people_in,
    point,
    rows,
    size_in,
)
from darkroom.producer.poses.layouts import by_name
from darkroom.schemas.events.keypoints import HAND_POINTS, POINTS, SCORE_MIN, Figure, Keypoint, Size

_SCORES: Final = ("keypoint_scores", "scores")
"""MMPose's name, and that of transformers."""
_LABELS: Final = ("name", "part", "class", "label")
"""TensorFlow.js' and ml5's name of a point's name, PoseNet's, Roboflow's, and that of whoever writes his own."""
_LANDMARKS: Final = ("landmark", "landmarks", "pose_landmarks", "poseLandmarks")
_HANDS: Final = (
    ("leftHandLandmarks", "left_hand_landmarks"),
    ("rightHandLandmarks", "right_hand_landmarks"),
)
"""MediaPipe's holistic landmarker, in JavaScript and in Python."""
_VISIBILITY_MIN: Final = SCORE_MIN["blazepose33"]


# --- MMPose and transformers ----------------------------------------------------------------------------------


def _instances(document: Any) -> list[dict[str, Any]]:
    """Return the people of a frame of MMPose's, wherever it keeps them."""
    if isinstance(document, dict) and "instances" in document:
        document = document["instances"]
    return people_in(document)


def is_mmpose(document: Any) -> bool:
    """Recognise people whose scores stand beside their keypoints."""
    one = next(iter(_instances(document)), {})
    points = one.get("keypoints")
    row = next((row for row in points if row is not None), None) if isinstance(points, list) else None
    return _is_point(row) and any(isinstance(one.get(name), list) for name in _SCORES)


def read_mmpose(document: Any) -> Found:
    """Read a frame's people. Raise `PoseJsonRefused`."""
    people = []
    for index, one in enumerate(_instances(document)):
        written = one.get("keypoints")
        if not isinstance(written, list):
            continue
        scores = next((one[name] for name in _SCORES if isinstance(one.get(name), list)), None)
        points = rows(written, f"person {index}", scores)
        people.append(_by_label(points, one.get("labels")))
    found, notes = figures(people, "MMPose's predictions")
    return Found("MMPose's predictions", found, None, notes)


def _by_label(points: Sequence[Keypoint], labels: Any) -> Sequence[Keypoint]:
    """Put points back into COCO's order: transformers leaves out those below its threshold, and names the others."""
    numbers = (
        [one for one in labels if type(one) is int and 0 <= one < POINTS["coco17"]] if isinstance(labels, list) else []
    )
    if not numbers or len(numbers) != len(points):
        return points
    known = dict(zip(numbers, points, strict=True))
    return [known.get(place) for place in range(POINTS["coco17"])]


# --- Ultralytics ----------------------------------------------------------------------------------------------


def is_ultralytics(document: Any) -> bool:
    """Recognise keypoints that are an object of x, y and visible."""
    return isinstance(first(document).get("keypoints"), dict)


def read_ultralytics(document: Any) -> Found:
    """Read the people of `Results.to_json()`. Raise `PoseJsonRefused`."""
    people = []
    for index, one in enumerate(people_in(document)):
        points = one.get("keypoints")
        if not isinstance(points, dict):
            continue
        across, down, sure = (points.get(name) for name in ("x", "y", "visible"))
        if not isinstance(across, list) or not isinstance(down, list) or len(across) != len(down):
            raise PoseJsonRefused(
                f"has keypoints without as many x as y (person {index}).", "Write it again with Ultralytics' to_json()."
            )
        sure = sure if isinstance(sure, list) and len(sure) == len(across) else [None] * len(across)
        who = f"person {index}"
        people.append([point(x, y, c, CONFIDENCE_MIN, who) for x, y, c in zip(across, down, sure, strict=True)])
    found, notes = figures(people, "Ultralytics' to_json()")
    return Found("Ultralytics' to_json()", found, None, notes)


# --- Points with names: TensorFlow.js, PoseNet, ml5, Roboflow -------------------------------------------------


def is_named(document: Any) -> bool:
    """Recognise keypoints that are objects with the name of their joint."""
    points = dicts(_named_people(document)[0].get("keypoints")) if _named_people(document) else []
    return bool(points) and any(name in points[0] for name in _LABELS)


def _named_people(document: Any) -> list[dict[str, Any]]:
    if isinstance(document, dict) and isinstance(document.get("predictions"), list):
        document = document["predictions"]
    return [one["pose"] if isinstance(one.get("pose"), dict) else one for one in people_in(document)]


def read_named(document: Any) -> Found:
    """Read people by their joints' names. Raise `PoseJsonRefused`."""
    people = []
    for index, one in enumerate(_named_people(document)):
        named: dict[str, Keypoint] = {}
        for each in dicts(one.get("keypoints")):
            place = each.get("position", each)
            x, y = (place.get("x"), place.get("y")) if isinstance(place, dict) else (None, None)
            label = str(next((each[name] for name in _LABELS if name in each), None))
            score = each.get("score", each.get("confidence"))
            named[label] = point(x, y, score, CONFIDENCE_MIN, f"person {index}")
        body = by_name(named)
        if body is not None:
            people.append(Figure(body))
    image = document.get("image") if isinstance(document, dict) else None
    size = size_in(image, "width", "height") if isinstance(image, dict) else None
    return Found("named keypoints, as of TensorFlow.js,", people, size)


# --- MediaPipe ----------------------------------------------------------------------------------------------


def _landmarks(document: Any) -> list[list[dict[str, Any]]]:
    """Return a list of landmarks for each person, in any of the ways that MediaPipe's languages write them."""
    if isinstance(document, dict):
        document = next((document[name] for name in _LANDMARKS if name in document), None)
        if isinstance(document, dict):
            return _landmarks(document)
    if not isinstance(document, list) or not document:
        return []
    people = document if isinstance(document[0], list) else [document]
    if isinstance(document[0], dict) and any(name in document[0] for name in _LANDMARKS):
        people = [person for one in document for person in _landmarks(one)]
    lists = [dicts(person) for person in people]
    return lists if lists and lists[0] and {"x", "y"} <= lists[0][0].keys() else []


def is_mediapipe(document: Any) -> bool:
    """Recognise landmarks that are objects of x and y."""
    return bool(_landmarks(document))


def read_mediapipe(document: Any) -> Found:
    """Read a result of the pose or the holistic landmarker, hands included. Raise `PoseJsonRefused`."""
    people = []
    for index, landmarks in enumerate(_landmarks(document)):
        if len(landmarks) == POINTS["blazepose33"] and not any("visibility" in each for each in landmarks):
            raise without_visibility()
        who = f"person {index}"
        people.append(
            [point(each.get("x"), each.get("y"), each.get("visibility"), _VISIBILITY_MIN, who) for each in landmarks]
        )
    found, notes = figures(people, "MediaPipe's landmarks")
    hands = [_hand(document, names) for names in _HANDS] if isinstance(document, dict) else []
    if len(found) == 1 and any(hands):
        found = [Figure(found[0].body, *hands)]
    if isinstance(document, dict) and any(document.get(name) for name in ("faceLandmarks", "face_landmarks")):
        notes += ("MediaPipe's face has other points than the 68 that are drawn, and was left out",)
    return Found("MediaPipe's landmarks", found, None, notes, in_fractions=True)


def _hand(document: dict[str, Any], names: tuple[str, str]) -> tuple[Keypoint, ...]:
    """Return a hand of the holistic landmarker. It gives its points no visibility: where there is a hand, all count."""
    written = next((document[name] for name in names if document.get(name)), None)
    lists = _landmarks(written if isinstance(written, dict) else {"landmarks": written})
    points = tuple(point(each.get("x"), each.get("y"), None, 0.0, "a hand") for each in lists[0]) if lists else ()
    return points if len(points) == HAND_POINTS else ()


def without_visibility() -> PoseJsonRefused:
    """Return the refusal of MediaPipe's points alone."""
    return PoseJsonRefused(
        "has MediaPipe's 33 points without their visibility, and MediaPipe places also what it does not see.",
        "Write each as [x, y, z, visibility], or its landmarks as objects with x, y and visibility.",
    )


# --- Lists of points without a word of who wrote them -------------------------------------------------------


def is_arrays(document: Any) -> bool:
    """Recognise arrays of keypoints under that name, with scores beside them or without (rtmlib, torchvision)."""
    points = document.get("keypoints") if isinstance(document, dict) else None
    return isinstance(points, list) and any(isinstance(one, list) for one in points)


def read_arrays(document: dict[str, Any]) -> Found:
    """Read arrays of keypoints. Raise `PoseJsonRefused`."""
    return bare_people(document["keypoints"], scores=document.get("scores", document.get("keypoint_scores")))


def bare_people(value: list[Any], size: Size | None = None, scores: Any = None) -> Found:
    """Read a list of people, each a list of points, or of one person's points. Raise `PoseJsonRefused`."""
    present = [one for one in value if one is not None]
    is_one = bool(present) and isinstance(present[0], list) and (not present[0] or number(present[0][0]) is not None)
    is_one = is_one and _is_point(present[0])
    people = [value] if is_one else value
    sure = [scores] if is_one else scores
    read = []
    for index, person in enumerate(people):
        if not isinstance(person, list):
            raise PoseJsonRefused(
                f"has a person {index} that is no list of points.", "Write [[x, y], ...] for each, null where unseen."
            )
        beside = sure[index] if isinstance(sure, list) and index < len(sure) else None
        if len(person) == POINTS["blazepose33"] and beside is None:
            read.append(_blazepose(person, index))
        else:
            read.append(rows(person, f"person {index}", beside if isinstance(beside, list) else None))
    found, notes = figures(read, "a list of points")
    return Found("a list of points", found, size, notes)


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and 2 <= len(value) <= 4 and all(number(part) is not None for part in value)


def _blazepose(person: list[Any], index: int) -> tuple[Keypoint, ...]:
    """33 points are MediaPipe's: [x, y, z, visibility], or nobody can say which of them it saw."""
    if not all(isinstance(each, list) and len(each) == 4 for each in person):
        raise without_visibility()
    return tuple(point(each[0], each[1], each[3], _VISIBILITY_MIN, f"person {index}") for each in person)
