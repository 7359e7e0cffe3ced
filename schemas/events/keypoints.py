"""Orders of keypoints, and how each becomes the figure that is drawn: OpenPose's 18 points, with hands and a face.

A point is x and y as fractions of the picture's width and height, or None where it is not seen. coco18: 0 nose, 1 neck,
2-4 right arm, 5-7 left arm, 8-10 right leg, 11-13 left leg, 14 and 15 eyes, 16 and 17 ears.

Sources of the orders: OpenPose doc/02_output.md (COCO, BODY_25, hands, face), COCO's keypoint task, COCO-WholeBody, and
MediaPipe's pose landmarker.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

Keypoint = tuple[float, float] | None
"""x and y as fractions of the picture's width and height, or None where the point is not seen."""
PoseStyle = Literal["openpose", "xinsir"]
"""How a model wants its skeletons drawn."""
Size = tuple[float, float]
"""Width and height in pixels."""

LIMBS: Final[tuple[tuple[int, int], ...]] = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
HAND_POINTS: Final = 21
"""Wrist, then four of each finger from the palm, thumb first: OpenPose, COCO-WholeBody and MediaPipe agree."""
FACE_POINTS: Final = (68, 70)
"""The 68 of iBUG, to which OpenPose adds the pupils."""

FROM_COCO17: Final = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""For each coco18 point the coco17 point it is; the neck (None) has none."""
_FROM_BODY25: Final = (0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
"""The same for BODY_25, which also has the hips' middle and feet."""
_FROM_BLAZEPOSE33: Final = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
_WHOLE_FACE, _WHOLE_LEFT, _WHOLE_RIGHT = slice(23, 91), slice(91, 112), slice(112, 133)
"""Places in COCO-WholeBody's 133 points, which begin with coco17 and six of the feet."""

POINTS: Final = MappingProxyType({"coco18": 18, "coco17": 17, "body25": 25, "blazepose33": 33, "wholebody133": 133})
"""Keypoints of one person, by format."""
SCORE_MIN: Final = MappingProxyType(
    {"coco18": 0.3, "coco17": 0.3, "body25": 0.05, "blazepose33": 0.5, "wholebody133": 0.3, "openpose_people": 0.05}
)
"""The score from which a point is seen, by format. DWPose, MMPose and rtmlib draw from 0.3 on, OpenPose a body from
0.05 (its render_threshold), and MediaPipe from a visibility of 0.5."""
OPENPOSE_HAND_SCORE_MIN: Final = 0.2
"""OpenPose's hand_render_threshold."""
OPENPOSE_FACE_SCORE_MIN: Final = 0.4
"""OpenPose's face_render_threshold."""
UNSEEN: Final = ((0.0, 0.0), (-1.0, -1.0))
"""Coordinates that tools write for a point that is not there, with a score beside them or without."""
FRACTION_MAX: Final = 4.0
"""Nobody is this few pixels large: where no coordinate is above it, all of them are fractions of the picture, whatever
size stands beside them. Tools write fractions and pixels under the same names."""
OUTSIDE_MIN: Final = -1.0
OUTSIDE_MAX: Final = 2.0
"""Points may lie outside of the picture, as far as this, in fractions of it."""


class Figure(NamedTuple):
    """One person as they are drawn. A hand or a face that is not given is empty."""

    body: tuple[Keypoint, ...]
    """18 points (coco18)."""
    left_hand: tuple[Keypoint, ...] = ()
    right_hand: tuple[Keypoint, ...] = ()
    face: tuple[Keypoint, ...] = ()

    @property
    def has_details(self) -> bool:
        """True if there is a point of a hand or of the face."""
        return any(point is not None for part in self[1:] for point in part)

    @property
    def is_drawable(self) -> bool:
        """True if a limb of the body touches the picture. Points without a limb tell a model of no pose."""
        ends = ((self.body[start], self.body[end]) for start, end in LIMBS)
        return any(a is not None and b is not None and _crosses(a, b) for a, b in ends)

    def placed(self, canvas: Size, size: Size | None, fit: str, *, in_pixels: bool) -> Figure:
        """Return the figure of a picture of `canvas` pixels as fractions of one of `size`, None where that is unknown.

        `fit` is `stretch`, or `contain` or `cover`, which keep proportions and the centre. `in_pixels`: the points are
        pixels of the canvas instead of fractions of it.
        """
        unit = canvas if in_pixels else (1.0, 1.0)
        spread = (1.0, 1.0)
        if size is not None and fit != "stretch":
            ratios = size[0] / canvas[0], size[1] / canvas[1]
            scale = min(ratios) if fit == "contain" else max(ratios)
            spread = scale / ratios[0], scale / ratios[1]

        def place(point: Keypoint) -> Keypoint:
            if point is None:
                return None
            x, y = point[0] / unit[0], point[1] / unit[1]
            return (x, y) if spread == (1.0, 1.0) else (0.5 + (x - 0.5) * spread[0], 0.5 + (y - 0.5) * spread[1])

        return Figure(*(tuple(map(place, part)) for part in self))

    def points(self) -> list[tuple[float, float]]:
        """Return every point that is seen, of the body, the hands and the face."""
        return [point for part in self for point in part if point is not None]


def figure_of(points: Sequence[Keypoint], layout: str) -> Figure:
    """Return the figure that points in the order of a format of `POINTS` are. Their unit may be any."""
    if layout == "coco18":
        return Figure(tuple(points))
    if layout == "body25":
        return Figure(_body(points, _FROM_BODY25))
    if layout == "blazepose33":
        return Figure(_body(points, _FROM_BLAZEPOSE33, shoulders=(11, 12)))
    if layout == "wholebody133":
        parts = (tuple(points[part]) for part in (_WHOLE_LEFT, _WHOLE_RIGHT, _WHOLE_FACE))
        return Figure(coco17_to_coco18(points[:17]), *(part if any(part) else () for part in parts))
    return Figure(coco17_to_coco18(points))


def coco17_to_coco18(person: Sequence[Keypoint]) -> tuple[Keypoint, ...]:
    """Reorder one person's 17 points; the neck is halfway between the shoulders, or unseen where one of them is."""
    return _body(person, FROM_COCO17, shoulders=(5, 6))


def _body(
    points: Sequence[Keypoint], places: Sequence[int | None], shoulders: tuple[int, int] = (0, 0)
) -> tuple[Keypoint, ...]:
    neck = middle(points[shoulders[0]], points[shoulders[1]])
    return tuple(neck if place is None else points[place] for place in places)


def middle(a: Keypoint, b: Keypoint) -> Keypoint:
    """Return the point halfway between two, or None where one of them is not seen."""
    return None if a is None or b is None else ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)


def seen(row: Sequence[float] | None, score_min: float) -> Keypoint:
    """Return the point that a tool's [x, y] or [x, y, score] is: None below `score_min`, at (0, 0) and at (-1, -1)."""
    if row is None or (len(row) == 3 and row[2] < score_min):
        return None
    point = (row[0], row[1])
    return None if point in UNSEEN else point


def _crosses(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Return whether the line from a to b touches the unit square (clipping by Liang and Barsky, 1984)."""
    enters, leaves = 0.0, 1.0
    for axis in (0, 1):
        along = b[axis] - a[axis]
        if along == 0:
            if not 0 <= a[axis] <= 1:
                return False
            continue
        first, last = sorted((-a[axis] / along, (1 - a[axis]) / along))
        enters, leaves = max(enters, first), min(leaves, last)
    return enters <= leaves
