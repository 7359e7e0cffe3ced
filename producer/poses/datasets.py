"""Readers of keypoints as data sets and annotation tools write them: COCO, COCO-WholeBody, Label Studio.

Sources: cocodataset.org (format-data, format-results), COCO-WholeBody's data_format.md, Label Studio's export formats.
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
    size_in,
    triples,
)
from darkroom.producer.poses.layouts import by_name, joint_of, reach
from darkroom.schemas.events.keypoints import FACE_POINTS, HAND_POINTS, Figure, Keypoint

_WHOLE_BODY: Final = (("lefthand_kpts", (HAND_POINTS,)), ("righthand_kpts", (HAND_POINTS,)), ("face_kpts", FACE_POINTS))
"""COCO-WholeBody's names beside `keypoints`, in a figure's order."""
_JOINTS_NAMED_MIN: Final = 8
"""A category that names fewer joints does not tell a body's order."""
_SHORTER_SHARE: Final = 0.9
"""As for BODY_25B (`darkroom.producer.poses.layouts`): points in a wrong order make limbs at least this much longer."""


def is_coco_annotations(document: Any) -> bool:
    """Recognise an object with annotations that have keypoints."""
    return isinstance(document, dict) and any("keypoints" in one for one in dicts(document.get("annotations")))


def read_coco_annotations(document: dict[str, Any]) -> Found:
    """Read the annotations of one picture. Raise `PoseJsonRefused`."""
    annotations = [one for one in dicts(document["annotations"]) if "keypoints" in one]
    names = {one.get("id"): one.get("keypoints") for one in dicts(document.get("categories"))}
    named = names.get(annotations[0].get("category_id"))
    people, notes = _people(annotations, "COCO's annotations", named if isinstance(named, list) else [])
    shown = annotations[0].get("image_id")
    image = next((one for one in dicts(document.get("images")) if one.get("id") == shown), {})
    return Found("COCO's annotations", people, size_in(image, "width", "height"), notes)


def is_coco_results(document: Any) -> bool:
    """Recognise people whose keypoints are numbers in a row; AlphaPose and others write them, too."""
    points = first(document).get("keypoints")
    return isinstance(points, list) and bool(points) and number(points[0]) is not None


def read_coco_results(document: Any) -> Found:
    """Read the results of one picture. Raise `PoseJsonRefused`."""
    people, notes = _people(people_in(document), "COCO's results")
    return Found("COCO's results", people, None, notes)


def _people(
    annotations: list[dict[str, Any]], writer: str, names: Sequence[Any] = ()
) -> tuple[list[Figure], tuple[str, ...]]:
    written = [one for one in annotations if isinstance(one.get("keypoints"), list)]
    points = [triples(one["keypoints"], CONFIDENCE_MIN, f"person {index}") for index, one in enumerate(written)]
    people, notes = _in_order(points, writer, [str(name) for name in names])
    detailed = [
        _detailed(figure, one, f"person {index}")
        for index, (figure, one) in enumerate(zip(people, written, strict=True))
    ]
    return detailed, notes


def _in_order(
    points: Sequence[Sequence[Keypoint]], writer: str, names: Sequence[str]
) -> tuple[list[Figure], tuple[str, ...]]:
    """Return the people by the order of their category's names, or by that of their number of points.

    Label Studio's COCO lists the names as its configuration does and the points by their `model_index`, and others use
    names in an order of their own: the order with the shorter limbs is the right one.
    """
    by_names = [by_name(dict(zip(names, one, strict=True))) if len(one) == len(names) else None for one in points]
    named = [Figure(body) for body in by_names if body is not None]
    if not points or len(named) < len(points) or sum(joint_of(name) is not None for name in names) < _JOINTS_NAMED_MIN:
        return figures(points, writer)
    try:
        counted, notes = figures(points, writer)
    except PoseJsonRefused:
        return named, ()
    of_named, of_counted = (sum(reach(figure.body) for figure in people) for people in (named, counted))
    if not 0 < of_named < _SHORTER_SHARE * of_counted:
        return counted, notes
    return named, ("the points are in the order of the category's names, which is not that of COCO",)


def _detailed(figure: Figure, annotation: dict[str, Any], who: str) -> Figure:
    parts: list[tuple[Keypoint, ...]] = []
    for (name, counts), known in zip(_WHOLE_BODY, figure[1:], strict=True):
        flat = annotation.get(name)
        points = triples(flat, CONFIDENCE_MIN, who) if isinstance(flat, list) else ()
        parts.append(points if len(points) in counts and any(points) else known)
    return Figure(figure.body, *parts)


def is_label_studio(document: Any) -> bool:
    """Recognise a task with results."""
    return any("result" in one for one in dicts(first(document).get("annotations")))


def read_label_studio(document: Any) -> Found:
    """Read a task: percent of the picture, of one person, since nothing says which points are one person's."""
    named: dict[str, Keypoint] = {}
    results = next(one["result"] for one in dicts(first(document)["annotations"]) if "result" in one)
    for one in dicts(results):
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
        place = point(value.get("x"), value.get("y"), None, 0.0, label[:40])
        named[label] = None if place is None else (place[0] / 100, place[1] / 100)
    body = by_name(named)
    if named and body is None:
        raise PoseJsonRefused(
            "has labels that are no joints (Label Studio's annotations).",
            "Name them nose, left_eye, right_shoulder and so on.",
        )
    return Found("Label Studio's annotations", [Figure(body)] if body else [], in_fractions=True)
