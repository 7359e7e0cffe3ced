"""Proves that keypoints become the skeleton that OpenPose ControlNets were trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from darkroom.inference.pose.control import control_picture, pose_digest
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.pose.skeleton import (
    COLOURS,
    DRAWN_LONG_SIDE_PX_MAX,
    STICK_PX,
    draw_people,
    drawn_size,
)
from darkroom.schemas.events.keypoints import LIMBS, Keypoint, coco17_to_coco18
from darkroom.schemas.events.pose import PeoplePose

Levels = npt.NDArray[np.int16]

# Apart from each other, so that every limb and every keypoint shows.
STANDING: tuple[Keypoint, ...] = (
    (0.50, 0.10), (0.50, 0.25), (0.35, 0.25), (0.20, 0.35), (0.10, 0.50), (0.65, 0.25), (0.80, 0.35), (0.90, 0.50),
    (0.42, 0.55), (0.38, 0.75), (0.36, 0.95), (0.58, 0.55), (0.62, 0.75), (0.64, 0.95), (0.45, 0.05), (0.55, 0.05),
    (0.38, 0.08), (0.62, 0.08),
)  # fmt: skip
NOBODY: tuple[Keypoint, ...] = (None,) * 18


def levels(people: Sequence[Sequence[Keypoint]], width: int = 512, height: int = 512) -> Levels:
    return np.asarray(draw_people(people, width=width, height=height), dtype=np.int16)


def at(picture: Levels, x: float, y: float) -> tuple[int, ...]:
    height, width, _ = picture.shape
    return tuple(int(level) for level in picture[int(y * height), int(x * width)])


def only(*seen: int) -> tuple[Keypoint, ...]:
    return tuple(point if index in seen else None for index, point in enumerate(STANDING))


@pytest.mark.parametrize("index", range(18))
def test_a_keypoint_is_a_disc_in_its_own_colour(index: int) -> None:
    picture = levels([only(index)])
    point = STANDING[index]
    assert point is not None
    assert at(picture, *point) == COLOURS[index]
    lit = np.argwhere(picture.any(axis=2))
    assert len(lit) == pytest.approx(math.pi * STICK_PX**2, rel=0.35)
    assert np.abs(lit - np.array([point[1], point[0]]) * 512).max() <= STICK_PX + 1


@pytest.mark.parametrize("limb", range(17))
def test_a_limb_is_an_ellipse_in_its_own_colour_at_less_light(limb: int) -> None:
    start, end = LIMBS[limb]
    picture = levels([only(start, end)])
    a, b = STANDING[start], STANDING[end]
    assert a is not None
    assert b is not None
    middle = ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2)
    assert at(picture, *middle) == tuple(int(0.6 * channel) for channel in COLOURS[limb])
    # Its area: that of an ellipse with these half-axes, and of the two keypoints' discs that stand out at its ends.
    area = math.pi * math.dist(a, b) * 512 / 2 * STICK_PX
    assert (picture.any(axis=2)).sum() == pytest.approx(area + math.pi * STICK_PX**2, rel=0.3)


def test_the_skeleton_is_openposes() -> None:
    """Every point is joined, the neck to shoulders, hips and nose, and arms and legs do not cross sides."""
    assert sorted({point for limb in LIMBS for point in limb}) == list(range(18))
    assert {b for a, b in LIMBS if a == 1} == {0, 2, 5, 8, 11}
    assert {(2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (11, 12), (12, 13)} < set(LIMBS)
    assert COLOURS[0] == (255, 0, 0)
    assert COLOURS[17] == (255, 0, 85)
    assert len(set(COLOURS)) == 18


def test_a_limb_with_an_unseen_end_is_left_out() -> None:
    assert not levels([NOBODY]).any()
    arm = levels([only(2, 4)])
    assert at(arm, 0.2, 0.35) == (0, 0, 0), "shoulder and wrist without an elbow are two points"


def test_keypoints_lie_over_limbs() -> None:
    picture = levels([STANDING])
    for index, point in enumerate(STANDING):
        assert point is not None
        assert at(picture, *point) == COLOURS[index]


def test_several_people_are_all_drawn() -> None:
    left = tuple(None if point is None else (point[0] / 2, point[1]) for point in STANDING)
    right = tuple(None if point is None else (point[0] / 2 + 0.5, point[1]) for point in STANDING)
    both = levels([left, right])
    assert (both[:, :256] == levels([left])[:, :256]).all()
    assert (both[:, 256:] == levels([right])[:, 256:]).all()


def test_points_outside_of_the_picture_fall_outside_of_it() -> None:
    reaching = [(1, (0.5, 0.5)), (2, (-1.0, 0.5)), (5, (2.0, 2.0))]
    person: list[Keypoint] = [None] * 18
    for index, point in reaching:
        person[index] = point
    picture = levels([tuple(person)])
    assert at(picture, 0.01, 0.5) == tuple(int(0.6 * channel) for channel in COLOURS[0]), "the limb runs to the edge"
    everywhere = [tuple([(x, y)] * 18) for x in (-1.0, 2.0) for y in (-1.0, 2.0)]
    assert not levels(everywhere).any()


def test_small_pictures_keep_thin_sticks() -> None:
    """What a picture is lit by must not depend on its size: sticks of 4 pixels would fill a small one."""
    shares = [(levels([STANDING], side, side).max(axis=2) / 255).mean() for side in (64, 128, 512, 1024)]
    assert max(shares) < 1.15 * min(shares)
    assert 0.02 < min(shares) < 0.08


@pytest.mark.parametrize(
    ("output", "drawn"),
    [
        ((64, 64), (512, 512)),
        ((1024, 1024), (512, 512)),
        ((128, 64), (1024, 512)),
        ((832, 1216), (512, 748)),
        ((64, 2048), (DRAWN_LONG_SIDE_PX_MAX // 32, DRAWN_LONG_SIDE_PX_MAX)),
    ],
)
def test_the_drawing_has_the_outputs_aspect(output: tuple[int, int], drawn: tuple[int, int]) -> None:
    assert drawn_size(*output) == drawn
    assert draw_people([STANDING], width=output[0], height=output[1]).size == output


def test_an_aspect_does_not_shift_a_point() -> None:
    for width, height in ((512, 512), (1024, 512), (512, 768)):
        picture = levels([only(7)], width, height)
        lit = np.argwhere(picture.any(axis=2)).mean(axis=0)
        assert lit == pytest.approx([0.50 * height, 0.90 * width], abs=1.5)


def test_coco17_is_put_into_openposes_order() -> None:
    named = {
        "nose": 0, "left eye": 1, "right eye": 2, "left ear": 3, "right ear": 4, "left shoulder": 5,
        "right shoulder": 6, "left elbow": 7, "right elbow": 8, "left wrist": 9, "right wrist": 10, "left hip": 11,
        "right hip": 12, "left knee": 13, "right knee": 14, "left ankle": 15, "right ankle": 16,
    }  # fmt: skip
    person: tuple[Keypoint, ...] = tuple((index / 20, 1 - index / 20) for index in range(17))
    order = (
        "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist",
        "right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle", "right eye", "left eye",
        "right ear", "left ear",
    )  # fmt: skip
    converted = coco17_to_coco18(person)
    for name, point in zip(order, converted, strict=True):
        if name != "neck":
            assert point == person[named[name]], name
    assert converted[1] == pytest.approx((5.5 / 20, 1 - 5.5 / 20)), "halfway between the shoulders"


@pytest.mark.parametrize("hidden", [5, 6])
def test_there_is_no_neck_without_both_shoulders(hidden: int) -> None:
    person = tuple(None if index == hidden else (0.5, 0.5) for index in range(17))
    assert coco17_to_coco18(person)[1] is None


def test_both_formats_draw_the_same_person() -> None:
    back = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
    coco18 = PeoplePose(people=(STANDING,))
    coco17 = PeoplePose(people=(tuple(STANDING[index] for index in back),), format="coco17")
    one, other = (
        control_picture(p, None, width=96, height=64, limits=PictureLimits()).picture for p in (coco18, coco17)
    )
    assert one.tobytes() == other.tobytes()


def test_a_person_of_another_number_of_points_is_refused() -> None:
    with pytest.raises(ValueError, match="17 keypoints"):
        draw_people([NOBODY[:17]], width=64, height=64)


def test_a_digest_tells_poses_apart() -> None:
    moved = ((0.51, 0.10), *STANDING[1:])
    poses = [PeoplePose(people=(STANDING,)), PeoplePose(people=(moved,)), PeoplePose(people=(STANDING, moved))]
    assert len({pose_digest(pose, None) for pose in poses}) == 3
    assert pose_digest(poses[0], None) == pose_digest(PeoplePose(people=(STANDING,)), b"ignored")
