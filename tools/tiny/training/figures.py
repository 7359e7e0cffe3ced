"""Draws a scene: the picture that a model should paint, a label for every pixel, and the skeleton of the request.

The figure is drawn three times as large and then reduced, so that its edges are smooth. Labels are drawn from the same
shapes without smoothing.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

from darkroom.inference.pose.skeleton import draw_people
from darkroom.tools.tiny.training.bodies import (
    FACE,
    HEAD_RADIUS,
    LEFT_ARM,
    LEFT_LEG,
    NECK,
    NOSE,
    RIGHT_ARM,
    RIGHT_LEG,
    Person,
    Point,
    random_people,
)
from darkroom.tools.tiny.training.grammar import COLOURS, Colour, Look, caption, random_look

BEHIND, FIGURE, TROUSERS = 0, 1, 2
"""A pixel's labels."""
_LARGER: Final = 3
_ARM, _LEG, _TORSO = 0.034, 0.042, 0.046
"""Half-widths of limbs and of the torso's rounding, in heights of a standing body."""
_RIM_PX: Final = {"flat": 0.0, "outline": 1.1, "watercolour": 0.66}
"""Pixels by which each style's edge extends outwards, at 128 pixels."""
_INSIDE_PX: Final = 0.44
"""Pixels by which an edge extends inwards, at 128 pixels."""
_LINE: Final = (28, 26, 34)
_LINE_ON_BLACK: Final = (236, 236, 236)
_WASH: Final = 0.3
"""The share of paper in watercolour."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that decides a picture."""

    look: Look
    people: tuple[Person, ...]
    text: str
    width: int
    height: int
    seed: int
    """Decides what the caption leaves open: the horizon, the flow of colour."""

    def keypoints(self) -> list[tuple[Any, ...]]:
        """Return the people's joints as fractions of the picture."""
        return [person.keypoints(self.width, self.height) for person in self.people]


def random_scene(
    dice: random.Random, *, width: int = 128, height: int = 128, people: int | None = None, simple: bool = False
) -> Scene:
    """Generate a scene with 1 to 3 `people`. `simple`: on a plain background, with everybody whole."""
    count = people or dice.choices((1, 2, 3), (0.76, 0.17, 0.07))[0]
    look = random_look(dice, plain=simple)
    bodies = random_people(dice, count, width=width, height=height, whole=simple)
    return Scene(look, tuple(bodies), caption(look, count, dice), width, height, dice.getrandbits(32))


def skeleton(scene: Scene) -> Image.Image:
    """Draw the control picture with the same code as for a request."""
    return draw_people(scene.keypoints(), width=scene.width, height=scene.height)


def picture(scene: Scene) -> Image.Image:
    """Draw the picture that the scene's caption and skeleton describe: RGB."""
    tints = tint(scene.look)
    canvas = _backdrop(scene, tints)
    draw = ImageDraw.Draw(canvas)
    rim = _rim(scene)
    for person in scene.people:
        for label, shapes in _layers(person, scene.look.build):
            colour = tints[label]
            if scene.look.style == "outline":
                _fill(draw, shapes, line_colour(scene.look), rim)
            elif scene.look.style == "watercolour":
                # Pigment gathers at the edge of wet colour.
                _fill(draw, shapes, _mixed(colour, (0, 0, 0), 0.18), rim)
            _fill(draw, shapes, colour, -_INSIDE_PX * _scale(scene) if rim else 0.0)
    small = canvas.reduce(_LARGER)
    return _run(small, scene.seed) if scene.look.style == "watercolour" else small


def labels(scene: Scene) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return (height, width) uint8: `BEHIND`, `FIGURE` or `TROUSERS`."""
    canvas = Image.new("L", (scene.width * _LARGER, scene.height * _LARGER), BEHIND)
    draw = ImageDraw.Draw(canvas)
    for person in scene.people:
        for label, shapes in _layers(person, scene.look.build):
            _fill(draw, shapes, label, _rim(scene))
    return np.asarray(canvas)[_LARGER // 2 :: _LARGER, _LARGER // 2 :: _LARGER].copy()


def tint(look: Look, colours: tuple[str, str, str] | None = None) -> tuple[Colour, Colour, Colour]:
    """Return the colours of background, figure and trousers (or of the three named) as the look's style paints them."""
    names = colours or (look.background, look.figure, look.trousers)
    first, second, third = (styled(name, look.style) for name in names)
    return first, second, third


def styled(colour: str, style: str) -> Colour:
    """Return a colour's value in a style."""
    value = COLOURS[colour]
    return _mixed(value, (255, 255, 255), _WASH) if style == "watercolour" else value


def line_colour(look: Look) -> Colour:
    """Return the outline style's line colour: ink, or chalk if ink would not be visible."""
    return _LINE_ON_BLACK if "black" in (look.background, look.figure) else _LINE


@dataclass(frozen=True, slots=True)
class _Capsule:
    a: Point
    b: Point
    radius: float


@dataclass(frozen=True, slots=True)
class _Rounded:
    corners: tuple[Point, ...]
    radius: float


_Shape = _Capsule | _Rounded


def _rim(scene: Scene) -> float:
    return _RIM_PX[scene.look.style] * _scale(scene)


def _scale(scene: Scene) -> float:
    return min(scene.width, scene.height) / 128


def _layers(person: Person, build: float) -> Iterator[tuple[int, list[_Shape]]]:
    """Yield the layers from the bottom up: legs, then torso and head, then arms."""
    p, size = person.points, person.size
    arm, leg = _ARM * size * build, _LEG * size * build
    yield TROUSERS, [*_limb(p, RIGHT_LEG, leg), *_limb(p, LEFT_LEG, leg)]
    body: list[_Shape] = []
    trunk = [p[i] for i in (RIGHT_ARM[0], LEFT_ARM[0], LEFT_LEG[0], RIGHT_LEG[0])]
    corners = tuple(point for point in trunk if point is not None)
    if len(corners) == 4:
        body.append(_Rounded(corners, _TORSO * size * build))
    neck, head = p[NECK], _head(person)
    if neck is not None:
        body.append(_Capsule(neck, head, 0.028 * size * build))
    body.append(_Capsule(head, head, HEAD_RADIUS * size))
    yield FIGURE, body
    for chain in (RIGHT_ARM, LEFT_ARM):
        yield FIGURE, list(_limb(p, chain, arm))


def _limb(points: Sequence[Point | None], chain: tuple[int, int, int], radius: float) -> Iterator[_Capsule]:
    for start, end in itertools.pairwise(chain):
        a, b = points[start], points[end]
        if a is not None and b is not None:
            yield _Capsule(a, b, radius)


def _head(person: Person) -> Point:
    seen = [person.points[i] for i in (FACE[2], FACE[3], NOSE)]
    known = [point for point in seen if point is not None]
    return sum(x for x, _ in known) / len(known), sum(y for _, y in known) / len(known)


def _fill(draw: ImageDraw.ImageDraw, shapes: Sequence[_Shape], colour: Any, wider: float) -> None:
    for shape in shapes:
        radius = (shape.radius + wider) * _LARGER
        if isinstance(shape, _Capsule):
            _line(draw, _large(shape.a), _large(shape.b), radius, colour)
        else:
            corners = [_large(corner) for corner in shape.corners]
            draw.polygon(corners, fill=colour)
            for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
                _line(draw, a, b, radius, colour)


def _line(draw: ImageDraw.ImageDraw, a: Point, b: Point, radius: float, colour: Any) -> None:
    length = math.hypot(b[0] - a[0], b[1] - a[1])
    if length > 0:
        x, y = (b[1] - a[1]) / length * radius, (a[0] - b[0]) / length * radius
        draw.polygon([(a[0] + x, a[1] + y), (b[0] + x, b[1] + y), (b[0] - x, b[1] - y), (a[0] - x, a[1] - y)], colour)
    for end in (a, b):
        draw.ellipse((end[0] - radius, end[1] - radius, end[0] + radius, end[1] + radius), fill=colour)


def _large(point: Point) -> Point:
    return point[0] * _LARGER, point[1] * _LARGER


def _backdrop(scene: Scene, tints: tuple[Colour, Colour, Colour]) -> Image.Image:
    width, height = scene.width * _LARGER, scene.height * _LARGER
    dice = random.Random(scene.seed)  # noqa: S311 - to be repeated
    first, second = tints[BEHIND], styled(scene.look.second, scene.look.style)
    canvas = Image.new("RGB", (width, height), first)
    draw = ImageDraw.Draw(canvas)
    if scene.look.setting == "ground":
        draw.rectangle((0, round(height * dice.uniform(0.6, 0.8)), width, height), fill=second)
    elif scene.look.setting == "fading":
        ramp = Image.linear_gradient("L").resize((width, height))
        canvas.paste(Image.new("RGB", (width, height), second), mask=ramp)
    elif scene.look.setting == "sun":
        radius, x = height * 0.11, width * dice.choice((0.18, 0.82))
        draw.ellipse((x - radius, height * 0.17 - radius, x + radius, height * 0.17 + radius), fill=second)
    elif scene.look.setting == "hill":
        radius, x = width * dice.uniform(0.7, 0.9), width * dice.uniform(0.2, 0.8)
        top = height * dice.uniform(0.6, 0.75)
        draw.ellipse((x - radius, top, x + radius, top + 2 * radius), fill=second)
    return canvas


def _run(image: Image.Image, seed: int) -> Image.Image:
    """Make watercolour uneven: smoothly lighter and darker by up to 6%."""
    clouds = np.random.default_rng(seed).uniform(0.0, 255.0, (5, 5)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(clouds).resize(image.size, Image.Resampling.BICUBIC), dtype=np.float32)
    factor = 1.0 + (smooth[..., None] / 255.0 - 0.5) * 0.12
    return Image.fromarray(np.clip(np.asarray(image, dtype=np.float32) * factor, 0, 255).astype(np.uint8))


def _mixed(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue
