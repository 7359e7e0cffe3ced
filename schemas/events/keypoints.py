"""OpenPose's skeleton of 18 points: its limbs, what COCO's 17 points are in it, and who of it can be seen.

A point is x and y as fractions of the picture's width and height, or None where it is not seen. coco18: 0 nose, 1 neck,
2-4 right arm, 5-7 left arm, 8-10 right leg, 11-13 left leg, 14 and 15 eyes, 16 and 17 ears.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

Keypoint = tuple[float, float] | None
"""x and y as fractions of the picture's width and height, or None where the point is not seen."""

LIMBS: Final[tuple[tuple[int, int], ...]] = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10),
    (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip

FROM_COCO17: Final = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""For each coco18 point the coco17 point it is; the neck (None) has none."""


def coco17_to_coco18(person: Sequence[Keypoint]) -> tuple[Keypoint, ...]:
    """Reorder one person's 17 points; the neck is halfway between the shoulders, or unseen where one of them is."""
    left, right = person[5], person[6]
    neck = None if left is None or right is None else ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    return tuple(neck if source is None else person[source] for source in FROM_COCO17)


def is_in_picture(person: Sequence[Keypoint]) -> bool:
    """Return whether a point of this person (coco18) lies in the picture, or a limb crosses it."""
    if any(point is not None and 0 <= point[0] <= 1 and 0 <= point[1] <= 1 for point in person):
        return True
    ends = ((person[start], person[end]) for start, end in LIMBS)
    return any(a is not None and b is not None and _crosses(a, b) for a, b in ends)


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
