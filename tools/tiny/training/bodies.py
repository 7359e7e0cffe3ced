"""Generates random poses: the joints of people.

Bodies are chains of bones with random directions: standing, cheering, sitting, striding and impossible poses, seen from
the front, from behind and from the side. Lengths are in units of a standing body's height; a finished person is in
pixels of the picture.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Final

from darkroom.schemas.events.keypoints import Keypoint

Point = tuple[float, float]

NOSE, NECK = 0, 1
RIGHT_ARM, LEFT_ARM, RIGHT_LEG, LEFT_LEG = (2, 3, 4), (5, 6, 7), (8, 9, 10), (11, 12, 13)
FACE: Final = (14, 15, 16, 17)
HEAD_RADIUS: Final = 0.075
_TORSO, _UPPER_ARM, _FOREARM, _THIGH, _SHIN = 0.29, 0.165, 0.155, 0.22, 0.22
_SHOULDER, _HIP, _NECK_TO_HEAD = 0.105, 0.062, 0.125


@dataclass(frozen=True, slots=True)
class Person:
    """One person's joints, in the picture's pixels."""

    points: tuple[Point | None, ...]
    """18 points (coco18); None for a missing joint and all joints beyond it."""
    size: float
    """The height of the standing body, in pixels."""

    def keypoints(self, width: int, height: int) -> tuple[Keypoint, ...]:
        """Return the points as fractions of the picture. As with a detector, points outside the picture are unseen."""
        return tuple(
            (point[0] / width, point[1] / height)
            if point is not None and 0 <= point[0] < width and 0 <= point[1] < height
            else None
            for point in self.points
        )


def random_people(dice: random.Random, count: int, *, width: int, height: int, whole: bool = False) -> list[Person]:
    """Generate `count` people side by side. `whole`: nobody is cut off by the picture's edge and nobody lacks a
    joint."""
    people = []
    for place in range(count):
        left, right = width * place / count, width * (place + 1) / count
        person = _random_body(dice)
        if not whole and count == 1 and dice.random() < 0.1:
            people.append(_closer(person, dice, width, height))
            continue
        person = _fitted(person, dice, left, right, height)
        people.append(person if whole else _without_some(person, dice))
    return people


def _random_body(dice: random.Random) -> Person:
    """Generate a body of height 1 with its neck at (0, 0); y points down."""
    turned = dice.choices((1.0, 0.35, -1.0), (0.78, 0.14, 0.08))[0] * dice.uniform(0.85, 1.1)
    lean = math.radians(dice.gauss(0, 9) if dice.random() < 0.85 else dice.uniform(-55, 55))
    across = (math.cos(lean), math.sin(lean))
    down = (-math.sin(lean), math.cos(lean))
    points: list[Point | None] = [None] * 18
    points[NECK] = (0.0, 0.0)
    hips = _add((0.0, 0.0), down, _TORSO * dice.uniform(0.85, 1.05))
    nod = math.radians(dice.gauss(0, 14)) + lean
    head = _add((0.0, 0.0), (math.sin(nod), -math.cos(nod)), _NECK_TO_HEAD)
    _set_face(points, head, nod, turned, dice)
    arms, legs = _arm_angles(dice), _leg_angles(dice)
    for side, arm, leg, arm_angles, leg_angles in (
        (-1, RIGHT_ARM, RIGHT_LEG, arms[0], legs[0]),
        (1, LEFT_ARM, LEFT_LEG, arms[1], legs[1]),
    ):
        # Seen from behind, the person's right is the picture's right.
        direction = math.copysign(1, turned) * side
        shoulder = _add((0.0, 0.0), across, side * turned * _SHOULDER)
        hip = _add(hips, across, side * turned * _HIP)
        _set_chain(
            points, arm, dice, root=shoulder, angles=arm_angles, direction=direction, lean=lean,
            lengths=(_UPPER_ARM, _FOREARM),
        )  # fmt: skip
        # Legs stand on the ground instead of following the torso.
        _set_chain(
            points, leg, dice, root=hip, angles=leg_angles, direction=direction, lean=lean * 0.3,
            lengths=(_THIGH, _SHIN),
        )  # fmt: skip
    return Person(tuple(points), 1.0)


def _arm_angles(dice: random.Random) -> tuple[Point, Point]:
    """Return each arm's angles of upper arm and forearm in degrees: 0 hangs down, 90 points outward, 180 up."""
    kind = dice.choices(("hanging", "raised", "aside", "any"), (0.25, 0.15, 0.15, 0.45))[0]
    if kind == "any":
        return _any_arm(dice), _any_arm(dice)
    middle, bend = {"hanging": (14.0, 8.0), "raised": (135.0, 12.0), "aside": (88.0, 0.0)}[kind]
    first, second = (
        (angle := dice.gauss(middle, 12), angle + dice.gauss(bend, 18)),
        (angle := dice.gauss(middle, 12), angle + dice.gauss(bend, 18)),
    )
    return first, second


def _any_arm(dice: random.Random) -> Point:
    upper = dice.uniform(-20, 175)
    return upper, upper + dice.choice((1, 1, 1, -1)) * dice.uniform(0, 130)


def _leg_angles(dice: random.Random) -> tuple[Point, Point]:
    kind = dice.choices(("standing", "apart", "striding", "any"), (0.35, 0.2, 0.2, 0.25))[0]
    if kind == "standing":
        return (dice.gauss(4, 4), dice.gauss(2, 4)), (dice.gauss(4, 4), dice.gauss(2, 4))
    if kind == "apart":
        spread = dice.uniform(12, 45)
        return (spread, spread + dice.gauss(0, 10)), (spread, spread + dice.gauss(0, 10))
    if kind == "striding":
        ahead, behind = dice.uniform(10, 50), dice.uniform(-10, 35)
        pair = ((ahead, ahead - dice.uniform(0, 60)), (behind, behind + dice.uniform(-20, 60)))
        return pair if dice.random() < 0.5 else (pair[1], pair[0])
    return _any_leg(dice), _any_leg(dice)


def _any_leg(dice: random.Random) -> Point:
    thigh = dice.uniform(-15, 100)
    return thigh, thigh - dice.uniform(-30, 110)


def _set_chain(
    points: list[Point | None],
    joints: tuple[int, int, int],
    dice: random.Random,
    *,
    root: Point,
    angles: Point,
    direction: float,
    lean: float,
    lengths: Point,
) -> None:
    points[joints[0]] = root
    for joint, angle, length in zip(joints[1:], angles, lengths, strict=True):
        turn = direction * math.radians(angle) - lean
        # A limb that points towards the viewer looks shorter.
        root = _add(root, (math.sin(turn), math.cos(turn)), length * dice.uniform(0.8, 1.05))
        points[joint] = root


def _set_face(points: list[Point | None], head: Point, nod: float, turned: float, dice: random.Random) -> None:
    """Place nose, eyes and ears on a head whose middle is `head`; from behind only the ears are seen."""
    across, up = (math.cos(nod), math.sin(nod)), (math.sin(nod), -math.cos(nod))
    looks = dice.gauss(0, 0.012) if abs(turned) > 0.6 else dice.choice((-1, 1)) * 0.045
    if turned > 0:
        points[NOSE] = _add(_add(head, up, -0.008), across, looks)
        for index, side in ((14, -1), (15, 1)):
            points[index] = _add(_add(head, up, 0.014), across, looks * 0.7 + side * 0.022)
    for index, side in ((16, -1), (17, 1)):
        points[index] = _add(head, across, math.copysign(side, side * turned) * 0.055 - looks * 0.5)
    if abs(turned) < 0.6:
        points[16 if looks < 0 else 17] = None


def _fitted(person: Person, dice: random.Random, left: float, right: float, height: float) -> Person:
    """Scale and place the person so that all of it lies between `left` and `right` (pixels) with a margin."""
    room_x, room_y = 0.94 * (right - left), 0.94 * height
    x0, y0, x1, y1 = _box(person)
    largest = min(room_x / (x1 - x0), room_y / (y1 - y0), 0.98 * height)
    size = max(min(largest, dice.uniform(0.5, 1.0) * height), 0.0)
    x = dice.uniform(left + 0.03 * (right - left) - x0 * size, left + 0.97 * (right - left) - x1 * size)
    y = dice.uniform(0.03 * height - y0 * size, 0.97 * height - y1 * size)
    return _moved(person, size, x, y)


def _closer(person: Person, dice: random.Random, width: int, height: int) -> Person:
    """Place the person so near that the picture's lower edge cuts off the legs."""
    size = height * dice.uniform(1.15, 1.6)
    return _moved(person, size, width * dice.uniform(0.38, 0.62), height * dice.uniform(0.3, 0.45))


def _without_some(person: Person, dice: random.Random) -> Person:
    """Remove a forearm, an arm or a leg now and then."""
    if dice.random() > 0.12:
        return person
    chain = dice.choice((RIGHT_ARM, LEFT_ARM, RIGHT_LEG, LEFT_LEG))
    lost = chain[dice.choice((1, 2, 2)) :]
    return replace(person, points=tuple(None if i in lost else point for i, point in enumerate(person.points)))


def _box(person: Person) -> tuple[float, float, float, float]:
    seen = [point for point in person.points if point is not None]
    xs, ys = [x for x, _ in seen], [y for _, y in seen]
    margin = HEAD_RADIUS
    return min(xs) - margin, min(ys) - margin, max(xs) + margin, max(ys) + margin


def _moved(person: Person, size: float, x: float, y: float) -> Person:
    points = tuple(None if p is None else (p[0] * size + x, p[1] * size + y) for p in person.points)
    return Person(points, size)


def _add(point: Point, direction: Point, length: float) -> Point:
    return point[0] + direction[0] * length, point[1] + direction[1] * length
