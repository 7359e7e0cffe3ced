"""Divides documents of several pictures or of a film into frames, each a document of its own in the same form."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from darkroom.producer.poses.documents import dicts

_RESULTS: Final = ("landmarks", "pose_landmarks", "poseLandmarks")
"""Members of one result of MediaPipe's. A list of `landmark`, its legacy form, is one of people."""


class Frames(NamedTuple):
    """The frames of a document."""

    unit: str
    """What the writer calls one: frame, picture, task."""
    documents: list[Any]


def frames_of(document: Any) -> Frames:
    """Return the frames of a document; where it cannot have several, itself as the only one."""
    if isinstance(document, dict):
        return _in_an_object(document)
    return _in_a_list(document) if isinstance(document, list) and document else Frames("frame", [document])


def _in_an_object(document: dict[str, Any]) -> Frames:
    annotations = [one for one in dicts(document.get("annotations")) if "keypoints" in one]
    if annotations:
        images = dicts(document.get("images"))
        shared = {"images": images, "categories": document.get("categories")}
        return Frames("picture", [{**shared, "annotations": group} for group in _by_picture(annotations)])
    for name in ("instance_info", "predictions"):  # MMPose's, of a film and of pictures
        frames = document.get(name)
        if not isinstance(frames, list) or not frames:
            continue
        if all(isinstance(one, list) or (isinstance(one, dict) and "instances" in one) for one in frames):
            return Frames("frame", frames)
        if name == "instance_info" or "keypoint_scores" in (dicts(frames) or [{}])[0]:
            return Frames("frame", [frames])
    if document and all(isinstance(one, dict) and ("people" in one or "bodies" in one) for one in document.values()):
        return Frames("picture", list(document.values()))  # AlphaPose's, by the pictures' names
    return Frames("frame", [document])


def _in_a_list(document: list[Any]) -> Frames:
    objects = dicts(document)
    if len(objects) < len(document):
        # Lists of people, who are objects with keypoints, or arrays with one more level than people's points have.
        deep = all(isinstance(one, list) for one in document)
        keyed = deep and any("keypoints" in person for one in document for person in dicts(one))
        return Frames("frame", document if keyed or (deep and _depth(document) > 3) else [document])
    if any("people" in one or "animals" in one or "bodies" in one or "instances" in one for one in objects):
        return Frames("frame", document)
    if any("image_id" in one and "keypoints" in one for one in objects):
        return Frames("picture", _by_picture([one for one in objects if "keypoints" in one]))
    if any("result" in one for task in objects for one in dicts(task.get("annotations"))):
        return Frames("task", document)
    if any(name in one for name in _RESULTS for one in objects):
        return Frames("frame", document)
    return Frames("frame", [document])


def _by_picture(annotations: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in annotations:
        groups.setdefault(str(one.get("image_id")), []).append(one)
    return list(groups.values())


def _depth(value: Any) -> int:
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = next((one for one in value if isinstance(one, list) and one), value[0] if value else None)
    return depth
