"""Readers of OpenPose's JSON, and of the nodes, editors and detectors that write as it does or as DWPose does.

Sources: OpenPose doc/02_output.md; comfyui_controlnet_aux (POSE_KEYPOINT); sd-webui-openpose-editor; AlphaPose
alphapose/utils/pPose_nms.py (`--format cmu` and `open`); DWPose ControlNet-v1-1-nightly/annotator/dwpose (its arrays).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from darkroom.producer.poses.detectors import bare_people
from darkroom.producer.poses.documents import (
    CONFIDENCE_MIN,
    Found,
    PoseJsonRefused,
    dicts,
    figures,
    number,
    point,
    rows,
    size_in,
    triples,
)
from darkroom.schemas.events.keypoints import (
    FACE_POINTS,
    HAND_POINTS,
    OPENPOSE_FACE_SCORE_MIN,
    OPENPOSE_HAND_SCORE_MIN,
    POINTS,
    SCORE_MIN,
    Figure,
    Keypoint,
)

_BODY: Final = ("pose_keypoints_2d", "pose_keypoints", "joints")
"""Its name, that of OpenPose before 1.3, and AlphaPose's in CMU's form."""
_HANDS_AND_FACE: Final = (
    ("hand_left_keypoints_2d", (HAND_POINTS,), OPENPOSE_HAND_SCORE_MIN),
    ("hand_right_keypoints_2d", (HAND_POINTS,), OPENPOSE_HAND_SCORE_MIN),
    ("face_keypoints_2d", FACE_POINTS, OPENPOSE_FACE_SCORE_MIN),
)
_WANTED: Final = "Let OpenPose write it again, with --write_json."


def is_openpose(document: Any) -> bool:
    """Recognise a frame with people who are objects, or animals."""
    if not isinstance(document, dict):
        return False
    people = document.get("people", document.get("bodies"))
    if "animals" in document and not isinstance(people, list):
        return True
    return isinstance(people, list) and (not people or any(isinstance(one, dict) for one in people))


def read_openpose(frame: dict[str, Any]) -> Found:
    """Read a frame of OpenPose's. Raise `PoseJsonRefused`."""
    written = frame.get("people", frame.get("bodies"))
    written = written if isinstance(written, list) else []
    if not written and frame.get("animals"):
        raise PoseJsonRefused(
            "has animals (AP10K), and no people.", "Animals are no pose here: write people's keypoints."
        )
    bodies = [_body(one, index) or (None,) * POINTS["coco18"] for index, one in enumerate(written)]
    people, notes = figures(bodies, "OpenPose's JSON")
    detailed = []
    for index, (one, figure) in enumerate(zip(written, people, strict=True)):
        parts, more = _details(one, index)
        detailed.append(Figure(figure.body, *parts))
        notes += more
    size = size_in(frame, "canvas_width", "canvas_height")
    return Found("OpenPose's JSON", detailed, size, notes, may_be_centred="canvas_width" not in frame)


def _body(person: Any, index: int) -> tuple[Keypoint, ...]:
    """Return the body's points; none where only hands or a face were seen of this person."""
    if not isinstance(person, dict):
        raise PoseJsonRefused(f"has a person {index} that is no object with pose_keypoints_2d.", _WANTED)
    flat = next((person[name] for name in _BODY if person.get(name) is not None), None)
    if flat is None:
        return ()
    if not isinstance(flat, list) or not all(number(value) is not None for value in flat):
        raise PoseJsonRefused(f"has no numbers in person {index}'s pose_keypoints_2d.", _WANTED)
    return triples(flat, SCORE_MIN["openpose_people"], f"person {index}")


def _details(person: dict[str, Any], index: int) -> tuple[list[tuple[Keypoint, ...]], tuple[str, ...]]:
    """Return the left hand, the right hand and the face, with notes on those that cannot be read."""
    parts: list[tuple[Keypoint, ...]] = []
    notes: list[str] = []
    for name, counts, score_min in _HANDS_AND_FACE:
        flat = person.get(name, person.get(name.removesuffix("_2d")))
        points: tuple[Keypoint, ...] = ()
        if isinstance(flat, list) and any(number(value) for value in flat):
            if all(number(value) is not None for value in flat) and len(flat) in [3 * count for count in counts]:
                points = triples(flat, score_min, f"person {index}")
            else:
                expected = " or ".join(str(count) for count in counts)
                notes.append(f"{name} of {len(flat)} values, not those of {expected} points, left out")
        parts.append(points if any(points) else ())
    return parts, tuple(notes)


# --- DWPose's arrays ----------------------------------------------------------------------------------------


def is_dwpose(document: Any) -> bool:
    """Recognise the dictionary that DWPose draws from, as JSON."""
    bodies = document.get("bodies") if isinstance(document, dict) else None
    return isinstance(bodies, dict) and "candidate" in bodies


def read_dwpose(document: dict[str, Any]) -> Found:
    """Read `bodies` (candidate, subset), `hands` and `faces`: fractions, -1 where unseen. Raise `PoseJsonRefused`."""
    bodies = document["bodies"]
    candidate = _list(bodies, "candidate")
    subset = bodies.get("subset")
    places = [row for row in subset if isinstance(row, list)] if isinstance(subset, list) else []
    if not places:
        count = len(candidate) // POINTS["coco18"]
        places = [list(range(start * 18, start * 18 + 18)) for start in range(count)]
    scores, named = bodies.get("score"), "DWPose's arrays"
    people = []
    for index, row in enumerate(places):
        sure = scores[index] if isinstance(scores, list) and index < len(scores) else None
        body = []
        for joint, place in enumerate(row[: POINTS["coco18"]]):
            where = number(place)
            known = where is not None and 0 <= where < len(candidate)
            score = sure[joint] if isinstance(sure, list) and joint < len(sure) else None
            body.append(_of(candidate[int(where or 0)], score, f"person {index}") if known else None)
        people.append(body)
    found, notes = figures(people, named)
    left, right, face = _parts(document, len(found))
    detailed = [Figure(one.body, left[index], right[index], face[index]) for index, one in enumerate(found)]
    return Found(named, detailed, None, notes, in_fractions=True)


def _parts(document: dict[str, Any], count: int) -> list[list[tuple[Keypoint, ...]]]:
    """Return everybody's left hands, right hands and faces: DWPose lists all left hands before all right ones."""

    def part(name: str, scores_name: str, index: int, points: Sequence[int]) -> tuple[Keypoint, ...]:
        listed, scores = document.get(name), document.get(scores_name)
        if not isinstance(listed, list) or index >= len(listed) or not isinstance(listed[index], list):
            return ()
        sure = scores[index] if isinstance(scores, list) and index < len(scores) else None
        seen = rows(listed[index], f"{name} {index}", sure if isinstance(sure, list) else None)
        return seen if len(seen) in points and any(seen) else ()

    hands = [
        [part("hands", "hands_score", side + index, (HAND_POINTS,)) for index in range(count)] for side in (0, count)
    ]
    return [*hands, [part("faces", "faces_score", index, FACE_POINTS) for index in range(count)]]


def _of(row: Any, score: Any, who: str) -> Keypoint:
    if not isinstance(row, list) or len(row) < 2:
        raise PoseJsonRefused(f"has a candidate that is not [x, y] ({who}).", "Write DWPose's arrays with tolist().")
    return point(row[0], row[1], score, CONFIDENCE_MIN, who)


def _list(document: dict[str, Any], name: str) -> list[Any]:
    """Return a list of points; one that has a list of points for each person is put in a row."""
    value = document.get(name)
    if not isinstance(value, list):
        raise PoseJsonRefused(f"has no list as `{name}` (DWPose's arrays).", "Write DWPose's arrays with tolist().")
    if value and isinstance(value[0], list) and value[0] and isinstance(value[0][0], list):
        return [row for person in value if isinstance(person, list) for row in person]
    return value


# --- Editors ------------------------------------------------------------------------------------------------


def is_editor(document: Any) -> bool:
    """Recognise openpose-editor's own form: width, height, and lists of points."""
    return isinstance(document, dict) and isinstance(document.get("keypoints"), list) and "width" in document


def read_editor(document: dict[str, Any]) -> Found:
    """Read openpose-editor's own form. Raise `PoseJsonRefused`."""
    found = bare_people(document["keypoints"], size=size_in(document, "width", "height"))
    return Found("an OpenPose editor's JSON", found.people, found.size, found.notes)


def is_listed(document: Any) -> bool:
    """Recognise people who are lists of points beside a canvas."""
    return isinstance(document, dict) and isinstance(document.get("people"), list) and not dicts(document["people"])


def read_listed(document: dict[str, Any]) -> Found:
    """Read people who are lists of points, as a request has them. Raise `PoseJsonRefused`."""
    canvas = document.get("canvas")
    size = size_in(canvas, "width", "height") if isinstance(canvas, dict) else None
    return bare_people(document["people"], size=size or size_in(document, "canvas_width", "canvas_height"))
