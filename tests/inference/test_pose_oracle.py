"""Holds our skeletons against controlnet-aux's drawing: the one that pose ControlNets are used with everywhere.

The oracle draws on a picture of the size at which ours is drawn before it is reduced, so the two can be laid over each
other. It rounds a limb's middle, length and angle to whole pixels and degrees, and ours does not: that, and nothing
else, is what the bounds leave room for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from darkroom.inference.pose.control import control_picture
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.pose.skeleton import COLOURS, LIMB_BRIGHTNESS, draw_people
from darkroom.schemas.events.keypoints import LIMBS, Keypoint
from darkroom.schemas.events.pose import PeoplePose
from tests.inference.painting import SITTING, WAVING

pytestmark = pytest.mark.render

Levels = npt.NDArray[np.uint8]
Person = tuple[Keypoint, ...]

WHOLE_IOU_MIN = 0.86
"""Lit pixels of whole skeletons, ours against the oracle's. Seen: 0.87 to 0.92."""
LIMB_IOU_MIN = 0.80
"""The same of one limb alone, some 8 pixels thick: half a pixel of rounding is 12% of it. Seen: 0.82 to 0.96. With
sticks half a pixel thicker or thinner than OpenPose's it would be lower."""
POINT_IOU_MIN = 0.78
"""The same of one keypoint: 61 pixels of ours over 49 of the oracle's."""
SIDE = 512

_BACK_TO_COCO17 = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)


@pytest.fixture(scope="module")
def library() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import controlnet_aux.open_pose as library
    return library


def person_of(pose: PeoplePose) -> Person:
    return pose.people[0]


def beside(person: Person, shift: float) -> Person:
    return tuple(None if point is None else (point[0] / 2 + shift, point[1]) for point in person)


def without(person: Person, *missing: int) -> Person:
    return tuple(None if index in missing else point for index, point in enumerate(person))


STANDING = person_of(WAVING)
PEOPLE: dict[str, list[Person]] = {
    "one person": [STANDING],
    "another": [person_of(SITTING)],
    "two people": [beside(STANDING, 0.0), beside(person_of(SITTING), 0.5)],
    "missing joints": [without(STANDING, 1, 4, 9, 16)],
    "points at the edge": [tuple(None if p is None else (p[0] * 1.3 - 0.15, p[1] * 1.2 - 0.1) for p in STANDING)],
    "nobody": [without(STANDING, *range(18))],
}


def oracle(library: Any, people: Sequence[Person], width: int = SIDE, height: int = SIDE) -> Levels:
    keypoint = library.Keypoint
    poses = [
        library.PoseResult(
            library.BodyResult([None if p is None else keypoint(*p) for p in person], 1.0, 18), None, None, None
        )
        for person in people
    ]
    drawn: Levels = library.draw_poses(poses, height, width, draw_hand=False, draw_face=False)
    return drawn


def ours(people: Sequence[Person], width: int = SIDE, height: int = SIDE) -> Levels:
    return np.asarray(draw_people(people, width=width, height=height))


def iou(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    either = (one | other).sum()
    return 1.0 if not either else float((one & other).sum() / either)


def lit(picture: Levels) -> npt.NDArray[np.bool_]:
    return picture.any(axis=2)


@pytest.mark.parametrize("case", PEOPLE)
@pytest.mark.parametrize(("width", "height"), [(SIDE, SIDE), (768, SIDE), (SIDE, 912)])
def test_whole_skeletons_cover_what_the_oracles_do(library: Any, case: str, width: int, height: int) -> None:
    theirs, mine = oracle(library, PEOPLE[case], width, height), ours(PEOPLE[case], width, height)
    assert iou(lit(theirs), lit(mine)) >= WHOLE_IOU_MIN


@pytest.mark.parametrize("case", [case for case in PEOPLE if case != "nobody"])
def test_a_pixel_that_both_light_has_the_same_colour(library: Any, case: str) -> None:
    """But for a rim, where limbs meet, the two put the same limb or point on top."""
    theirs, mine = oracle(library, PEOPLE[case]), ours(PEOPLE[case])
    both = lit(theirs) & lit(mine)
    same = (theirs == mine).all(axis=2)
    assert same[both].mean() >= 0.95
    assert {tuple(c) for c in mine[both]} == {tuple(c) for c in theirs[both]}


def seen_limbs() -> Iterator[Any]:
    """Each person with each limb whose two ends are seen."""
    for name, person in {"waving": STANDING, "sitting": person_of(SITTING)}.items():
        for limb, (start, end) in enumerate(LIMBS[:17]):
            if person[start] is not None and person[end] is not None:
                yield pytest.param(person, limb, id=f"{name}-{limb}")


@pytest.mark.parametrize(("person", "limb"), list(seen_limbs()))
def test_each_limb_alone_is_the_oracles(library: Any, person: Person, limb: int) -> None:
    start, end = LIMBS[limb]
    alone = without(person, *(index for index in range(18) if index not in (start, end)))
    theirs, mine = oracle(library, [alone]), ours([alone])
    dim = [int(channel * LIMB_BRIGHTNESS) for channel in COLOURS[limb]]
    for colour, iou_min in ((dim, LIMB_IOU_MIN), (COLOURS[start], POINT_IOU_MIN), (COLOURS[end], POINT_IOU_MIN)):
        there, here = ((picture == colour).all(axis=2) for picture in (theirs, mine))
        assert there.any(), "the oracle draws this part in this colour"
        assert iou(there, here) >= iou_min, f"colour {colour}"


@pytest.mark.parametrize("person", [STANDING, person_of(SITTING)], ids=["waving", "sitting"])
def test_coco17_is_drawn_as_the_oracle_draws_the_same_person(library: Any, person: Person) -> None:
    left, right = person[5], person[2]
    assert left is not None
    assert right is not None
    neck = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    coco18 = tuple(neck if index == 1 else point for index, point in enumerate(person))
    coco17 = PeoplePose(people=(tuple(person[index] for index in _BACK_TO_COCO17),), format="coco17")
    mine = np.asarray(control_picture(coco17, None, width=SIDE, height=SIDE, limits=PictureLimits()).picture)
    assert iou(lit(oracle(library, [coco18])), lit(mine)) >= WHOLE_IOU_MIN
