"""Draws OpenPose skeletons from keypoints.

Pose ControlNets were trained on OpenPose's drawings: every limb a filled ellipse in its own colour at 0.6 of full
brightness, every keypoint a disc in full colour, with half-widths of 4 pixels on a black picture of about 512 pixels.
The thickness does not grow with the picture, so a skeleton drawn on a small picture would be mostly sticks. That is why
every skeleton is drawn with its short side at 512 pixels, in the output's aspect, and then scaled to the output's size.
The colours and the pairs of points are the format; the drawing code is our own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw

from darkroom.schemas.events.keypoints import LIMBS, Keypoint

DRAWN_SHORT_SIDE_PX: Final = 512
DRAWN_LONG_SIDE_PX_MAX: Final = 4096
"""A very narrow picture's skeleton is drawn smaller, so that it never takes more than 6 MiB."""
STICK_PX: Final = 4
"""Half the width of a limb, and the radius of a keypoint."""
LIMB_BRIGHTNESS: Final = 0.6
_OUTLINE_POINTS: Final = 48
"""Corners of the polygon that approximates a limb's ellipse: enough for a smooth edge at 512 pixels."""

COLOURS: Final[tuple[tuple[int, int, int], ...]] = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
"""A limb takes the colour of its place in `LIMBS`, a keypoint that of its own index."""


def draw_people(people: Sequence[Sequence[Keypoint]], *, width: int, height: int) -> Image.Image:
    """Draw people of 18 points each (coco18) as an RGB picture of `width` x `height` pixels.

    Limbs with an unseen end are left out; points outside the picture are clipped. Raises `ValueError` if a person has
    another number of points.
    """
    drawn_width, drawn_height = drawn_size(width, height)
    canvas = Image.new("RGB", (drawn_width, drawn_height))
    draw = ImageDraw.Draw(canvas)
    placed = [[None if point is None else _place(point, drawn_width, drawn_height) for point in p] for p in people]
    for person in placed:
        if len(person) != len(COLOURS):
            raise ValueError(f"a person has {len(person)} keypoints; a skeleton is drawn from {len(COLOURS)}")
    # All limbs lie under all keypoints, and a limb of one colour is drawn for everybody before the next.
    for (start, end), colour in zip(LIMBS, COLOURS, strict=False):
        dim = tuple(int(channel * LIMB_BRIGHTNESS) for channel in colour)
        for person in placed:
            a, b = person[start], person[end]
            if a is not None and b is not None:
                draw.polygon(_ellipse_between(a, b), fill=dim)
    for index, colour in enumerate(COLOURS):
        for person in placed:
            point = person[index]
            if point is not None:
                draw.ellipse(_disc_at(point), fill=colour)
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def drawn_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height in pixels of the drawing for an output of `width` x `height`."""
    scale = min(DRAWN_SHORT_SIDE_PX / min(width, height), DRAWN_LONG_SIDE_PX_MAX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _place(point: tuple[float, float], width: int, height: int) -> tuple[float, float]:
    return point[0] * width, point[1] * height


def _ellipse_between(a: tuple[float, float], b: tuple[float, float]) -> list[tuple[float, float]]:
    """Return the outline of the ellipse whose long axis runs from a to b and whose short half-axis is `STICK_PX`."""
    middle_x, middle_y = (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
    half_x, half_y = (b[0] - a[0]) / 2, (b[1] - a[1]) / 2
    half_length = math.hypot(half_x, half_y)
    along_x, along_y = (half_x / half_length, half_y / half_length) if half_length else (1.0, 0.0)
    outline = []
    for corner in range(_OUTLINE_POINTS):
        angle = 2 * math.pi * corner / _OUTLINE_POINTS
        along, across = half_length * math.cos(angle), STICK_PX * math.sin(angle)
        outline.append((middle_x + along * along_x - across * along_y, middle_y + along * along_y + across * along_x))
    return outline


def _disc_at(point: tuple[float, float]) -> tuple[float, float, float, float]:
    return point[0] - STICK_PX, point[1] - STICK_PX, point[0] + STICK_PX, point[1] + STICK_PX
