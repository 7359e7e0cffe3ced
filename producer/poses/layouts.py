"""The orders in which the field's tools list a body's points, and how each becomes OpenPose's eighteen (coco18).

Sources: OpenPose doc/02_output.md (BODY_25, COCO, MPI) and its train repository (BODY_25B); COCO's keypoint task;
Halpe-FullBody; MediaPipe's pose landmarker; the datasets' own descriptions in MMPose for those that are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from darkroom.schemas.events.keypoints import LIMBS, POINTS, Figure, Keypoint, coco17_to_coco18, figure_of, middle

_LAYOUTS: Final = {count: layout for layout, count in POINTS.items()}
_HALPE_26, _HALPE_136 = 26, 136
_HALPE_FACE, _HALPE_LEFT, _HALPE_RIGHT = slice(26, 94), slice(94, 115), slice(115, 136)
"""Places in Halpe's 136 points, which begin with its 26: coco17, head, neck, the hips' middle and feet."""
_FEET: Final = {26: slice(20, 26), 133: slice(17, 23), 136: slice(20, 26)}
"""Places of the feet, which no ControlNet was trained with. BODY_25's and MediaPipe's are left out without a word."""
_TWISTED_SHARE: Final = 0.9
"""25 points are read as BODY_25B's where that makes the limbs shorter than this share of BODY_25's. Measured on 26
people of photos: 1.12 to 2.59 where they are BODY_25, and 0.39 to 0.82 (once 1.1) where they are BODY_25B."""

OTHER_LAYOUTS: Final[dict[int, tuple[str, str]]] = {
    14: ("CrowdPose's or LSP's 14 points, which lack the face", "Use a model of COCO's 17 points."),
    15: ("OpenPose's MPI model of 15 points, which lack the face", "Run OpenPose with --model_pose COCO or BODY_25."),
    16: ("MPII's 16 points, which lack the face", "Use a model of COCO's 17 points."),
    19: ("OpenPose's BODY_19 of 19 points", "Run OpenPose with --model_pose COCO or BODY_25."),
    21: ("one hand's 21 points", "Give the body's keypoints: hands alone are no pose here."),
    23: ("OpenPose's BODY_23 of 23 points", "Run OpenPose with --model_pose COCO or BODY_25."),
    24: ("SMPL's 24 joints", "Use a model of COCO's 17 points."),
    68: ("a face's 68 points", "Give the body's keypoints: a face alone is no pose here."),
    70: ("a face's 70 points", "Give the body's keypoints: a face alone is no pose here."),
    135: ("OpenPose's BODY_135 of 135 points", "Run OpenPose with --model_pose COCO or BODY_25."),
    308: ("Sapiens' 308 points", "Use its model of COCO's 17 points."),
    468: ("MediaPipe's 468 points of a face", "Use its pose landmarker."),
    478: ("MediaPipe's 478 points of a face", "Use its pose landmarker."),
}
"""Numbers of points that are known and are not read: what they are, and what to do."""

_LABEL: Final = re.compile(
    r"(?:(?P<side>l|left|r|right)?(?P<part>nose|neck|eye|ear|sho(?:ulder)?|elb(?:ow)?|wri(?:st)?|hip|knee?|ank(?:le)?))"
)
_RIGHT: Final = {"sho": 2, "elb": 3, "wri": 4, "hip": 8, "kne": 9, "ank": 10, "eye": 14, "ear": 16}
_LEFT: Final = {"sho": 5, "elb": 6, "wri": 7, "hip": 11, "kne": 12, "ank": 13, "eye": 15, "ear": 17}


class LayoutUnknown(Exception):  # noqa: N818 - what was found
    """So many points are no body that can be drawn: `what` they are, and the `remedy`."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what = what
        self.remedy = remedy


def arranged(points: Sequence[Keypoint]) -> tuple[Figure, str | None]:
    """Return somebody's points as a figure, by how many there are, and what was left out or taken for granted, if
    anything.

    Raises `LayoutUnknown`. The points may be in any unit.
    """
    count = len(points)
    if count == POINTS["body25"]:
        return _body_25(points)
    if count in _LAYOUTS:
        return figure_of(points, _LAYOUTS[count]), _feet(points)
    if count in (_HALPE_26, _HALPE_136):
        parts = (tuple(points[part]) for part in (_HALPE_LEFT, _HALPE_RIGHT, _HALPE_FACE))
        return Figure(coco17_to_coco18(points[:17]), *(part if any(part) else () for part in parts)), _feet(points)
    what, remedy = OTHER_LAYOUTS.get(
        count,
        (
            f"people of {count} points",
            "Read are COCO's 17, OpenPose's 18 or 25, Halpe's 26 or 136, MediaPipe's 33 and COCO-WholeBody's 133.",
        ),
    )
    raise LayoutUnknown(what, remedy)


def _feet(points: Sequence[Keypoint]) -> str | None:
    feet = _FEET.get(len(points))
    return "feet are not drawn and were left out" if feet is not None and any(points[feet]) else None


def by_name(points: Mapping[str, Keypoint]) -> tuple[Keypoint, ...] | None:
    """Return points that have labels (`left_shoulder`, `leftShoulder`, `lsho`) as coco18; None where none is a joint.

    Labels that are no joint of coco18 are passed over.
    """
    joints: dict[int, Keypoint] = {}
    for label, point in points.items():
        index = joint_of(label)
        if index is not None:
            joints[index] = point
    if not joints:
        return None
    joints.setdefault(1, middle(joints.get(2), joints.get(5)))
    return tuple(joints.get(index) for index in range(18))


def joint_of(label: str) -> int | None:
    """Return the coco18 index that a label names, or None."""
    found = _LABEL.fullmatch(re.sub(r"[^a-z]", "", label.lower()))
    if found is None:
        return None
    side, part = found["side"], found["part"]
    if side is None:
        return {"nose": 0, "neck": 1}.get(part)
    return (_LEFT if side.startswith("l") else _RIGHT).get(part[:3])


def _body_25(points: Sequence[Keypoint]) -> tuple[Figure, str | None]:
    """BODY_25, or BODY_25B, which has as many points in another order: whichever makes a body of them."""
    body_25 = figure_of(points, "body25")
    body_25b = Figure(coco17_to_coco18(points[:17]))
    if 0 < reach(body_25b.body) < _TWISTED_SHARE * reach(body_25.body):
        return body_25b, "the 25 points were read as BODY_25B's: in BODY_25's order the limbs would be impossible"
    return body_25, None


def reach(body: Sequence[Keypoint]) -> float:
    """Return the mean length of the limbs that are seen; 0 without any."""
    lengths = []
    for start, end in LIMBS:
        a, b = body[start], body[end]
        if a is not None and b is not None:
            lengths.append(((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5)
    return sum(lengths) / len(lengths) if lengths else 0.0
