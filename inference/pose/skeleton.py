"""Draws skeletons from keypoints, in the style that a pose ControlNet was trained on.

OpenPose's style: every limb a filled ellipse in its own colour at 0.6 of full brightness, every keypoint a disc in full
colour, with half-widths of 4 pixels on a black picture of about 512 pixels; hands as lines in the order of hues with
blue discs, faces as white discs. The thickness does not grow with the picture, so a skeleton drawn on a small picture
would be mostly sticks. That is why every skeleton of this style is drawn with its short side at 512 pixels, in the
output's aspect, and then scaled to the output's size.

xinsir's style, of the OpenPose ControlNets for SDXL by that name: bodies alone, drawn at the output's size, with
half-widths of 4 pixels times a factor that grows with the longer side (the model card's formula).

The colours and the pairs of points are the format; the drawing code is our own.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw

from darkroom.schemas.events.keypoints import LIMBS, Figure, Keypoint, PoseStyle

DRAWN_SHORT_SIDE_PX: Final = 512
DRAWN_LONG_SIDE_PX_MAX: Final = 4096
"""A very narrow picture's skeleton is drawn smaller, so that it never takes more than 6 MiB."""
STICK_PX: Final = 4
"""Half the width of a limb, and the radius of a keypoint, and of a hand's."""
FACE_PX: Final = 3
"""The radius of a face's point."""
FINGER_PX: Final = 3
"""The width of a finger between whole pixels: how OpenCV paints a line of thickness 2."""
LIMB_BRIGHTNESS: Final = 0.6
_OUTLINE_POINTS: Final = 48
"""Corners of the polygon that approximates a limb's ellipse: enough for a smooth edge at 512 pixels."""

COLOURS: Final[tuple[tuple[int, int, int], ...]] = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0),
    (0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255),
    (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
"""A limb takes the colour of its place in `LIMBS`, a keypoint that of its own index."""


HAND_EDGES: Final = tuple((0 if joint % 4 == 1 else joint - 1, joint) for joint in range(1, 21))
"""From the wrist along each finger; an edge has the hue of its place among them."""
_HAND_COLOURS: Final = tuple(
    tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(edge / len(HAND_EDGES), 1.0, 1.0))
    for edge in range(len(HAND_EDGES))
)
HAND_POINT_COLOUR: Final = (0, 0, 255)
FACE_COLOUR: Final = (255, 255, 255)

_XINSIR_STEPS_PX: Final = (500, 1000, 2000, 3000, 4000, 5000)
"""The longer sides at which xinsir's sticks become thicker by the thickness of OpenPose's."""


def draw_people(people: Sequence[Sequence[Keypoint]], *, width: int, height: int) -> Image.Image:
    """Draw bodies of 18 points each (coco18) in OpenPose's style, as `draw_figures` does."""
    return draw_figures([Figure(tuple(person)) for person in people], width=width, height=height)


def draw_figures(figures: Sequence[Figure], *, width: int, height: int, style: PoseStyle = "openpose") -> Image.Image:
    """Draw people as an RGB picture of `width` x `height` pixels.

    Limbs with an unseen end are left out; points outside the picture are clipped. Raises `ValueError` if a body has
    another number of points than 18.
    """
    for figure in figures:
        if len(figure.body) != len(COLOURS):
            raise ValueError(f"a person has {len(figure.body)} keypoints; a skeleton is drawn from {len(COLOURS)}")
    if style == "xinsir":
        canvas = Image.new("RGB", (width, height))
        _draw_bodies(ImageDraw.Draw(canvas), canvas.size, figures, STICK_PX * xinsir_factor(width, height))
        return canvas
    canvas = Image.new("RGB", drawn_size(width, height))
    draw = ImageDraw.Draw(canvas)
    _draw_bodies(draw, canvas.size, figures, STICK_PX)
    for figure in figures:
        for hand in (figure.left_hand, figure.right_hand):
            _draw_hand(draw, _placed(hand, canvas.size))
    for figure in figures:
        for point in _placed(figure.face, canvas.size):
            if point is not None:
                _draw_dot(draw, point, FACE_PX, FACE_COLOUR)
    return canvas.resize((width, height), Image.Resampling.LANCZOS)


def draws_details(style: PoseStyle) -> bool:
    """Return whether hands and faces are part of a style."""
    return style == "openpose"


def xinsir_factor(width: int, height: int) -> int:
    """Return how many times thicker than OpenPose's the sticks of xinsir's style are, 1 to 7."""
    return 1 + sum(max(width, height) >= step for step in _XINSIR_STEPS_PX)


def _draw_bodies(draw: ImageDraw.ImageDraw, size: tuple[int, int], figures: Sequence[Figure], half_px: int) -> None:
    placed = [_placed(figure.body, size) for figure in figures]
    # All limbs lie under all keypoints, and a limb of one colour is drawn for everybody before the next.
    for (start, end), colour in zip(LIMBS, COLOURS, strict=False):
        dim = tuple(int(channel * LIMB_BRIGHTNESS) for channel in colour)
        for person in placed:
            a, b = person[start], person[end]
            if a is not None and b is not None:
                draw.polygon(_ellipse_between(a, b, half_px), fill=dim)
    for index, colour in enumerate(COLOURS):
        for person in placed:
            point = person[index]
            if point is not None:
                draw.ellipse(_disc_at(point, half_px), fill=colour)


def _draw_hand(draw: ImageDraw.ImageDraw, hand: Sequence[Keypoint]) -> None:
    if not hand:
        return
    for (start, end), colour in zip(HAND_EDGES, _HAND_COLOURS, strict=True):
        a, b = hand[start], hand[end]
        if a is not None and b is not None:
            draw.line((int(a[0]), int(a[1]), int(b[0]), int(b[1])), fill=colour, width=FINGER_PX)
    for point in hand:
        if point is not None:
            _draw_dot(draw, point, STICK_PX, HAND_POINT_COLOUR)


def _draw_dot(
    draw: ImageDraw.ImageDraw, point: tuple[float, float], radius_px: int, colour: tuple[int, int, int]
) -> None:
    """Draw a disc about a whole pixel, row by row: the same pixels as OpenCV's, where Pillow's discs have more."""
    x, y = int(point[0]), int(point[1])
    for row in range(-radius_px, radius_px + 1):
        half = math.isqrt(radius_px**2 - row**2)
        draw.line((x - half, y + row, x + half, y + row), fill=colour)


def drawn_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height in pixels of the drawing for an output of `width` x `height`."""
    scale = min(DRAWN_SHORT_SIDE_PX / min(width, height), DRAWN_LONG_SIDE_PX_MAX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _placed(points: Sequence[Keypoint], size: tuple[int, int]) -> list[Keypoint]:
    return [None if point is None else (point[0] * size[0], point[1] * size[1]) for point in points]


def _ellipse_between(a: tuple[float, float], b: tuple[float, float], half_px: float) -> list[tuple[float, float]]:
    """Return the outline of the ellipse whose long axis runs from a to b and whose short half-axis is `half_px`."""
    middle_x, middle_y = (a[0] + b[0]) / 2, (a[1] + b[1]) / 2
    half_x, half_y = (b[0] - a[0]) / 2, (b[1] - a[1]) / 2
    half_length = math.hypot(half_x, half_y)
    along_x, along_y = (half_x / half_length, half_y / half_length) if half_length else (1.0, 0.0)
    outline = []
    for corner in range(_OUTLINE_POINTS):
        angle = 2 * math.pi * corner / _OUTLINE_POINTS
        along, across = half_length * math.cos(angle), half_px * math.sin(angle)
        outline.append((middle_x + along * along_x - across * along_y, middle_y + along * along_y + across * along_x))
    return outline


def _disc_at(point: tuple[float, float], radius_px: float) -> tuple[float, float, float, float]:
    return point[0] - radius_px, point[1] - radius_px, point[0] + radius_px, point[1] + radius_px
