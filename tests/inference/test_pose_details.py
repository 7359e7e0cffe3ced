"""Holds hands, faces and xinsir's bodies against the drawing code that their ControlNets were trained with.

The oracle of hands and faces is controlnet-aux's; that of xinsir's style is the same code with the thicknesses that the
model card prescribes put in.
"""

from __future__ import annotations

import inspect
import math
import warnings
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest

from darkroom.inference.pose.control import control_picture
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.pose.skeleton import draw_figures, xinsir_factor
from darkroom.inference.types import RenderFault
from darkroom.schemas.events.keypoints import Figure, Keypoint
from darkroom.schemas.events.pose import CanvasSize, OpenPosePeople, PeoplePose
from tests.inference.painting import SITTING, WAVING

pytestmark = pytest.mark.render

Levels = npt.NDArray[np.uint8]

HAND_IOU_MIN: Final = 0.92
"""Lit pixels of a hand, ours against the oracle's. The discs are equal, and the lines differ at their rims."""
FACE_IOU_MIN: Final = 0.999
"""The same of a face."""
XINSIR_IOU_MIN: Final = 0.90
"""The same of a body in xinsir's style, whose sticks are thicker, so that rounding counts less."""
SIDE: Final = 512
BODY: Final = WAVING.people[0]


def hand(x: float, y: float, turn: float = 0.0, reach: float = 0.12) -> tuple[Keypoint, ...]:
    """A hand with its fingers spread."""
    points: list[Keypoint] = [(x, y)]
    for finger in range(5):
        angle = turn + (finger - 2) * 0.4
        points += [
            (x + math.sin(angle) * reach * (0.4 + 0.2 * joint), y - math.cos(angle) * reach * (0.4 + 0.2 * joint))
            for joint in range(4)
        ]
    return tuple(points)


def face(x: float, y: float, points: int = 68) -> tuple[Keypoint, ...]:
    """Points on rings, as far apart as those of a large face."""
    return tuple(
        (x + 0.15 * ring * math.cos(index), y + 0.2 * ring * math.sin(index))
        for index, ring in ((index, 0.4 + 0.6 * (index % 3) / 2) for index in range(points))
    )


LEFT, RIGHT, FACE = hand(0.25, 0.4), hand(0.75, 0.6, turn=1.2), face(0.5, 0.5)
NOBODY: Final[tuple[Keypoint, ...]] = (None,) * 18


@pytest.fixture(scope="module")
def library() -> Any:
    pytest.importorskip("matplotlib")  # controlnet-aux draws hands with it, and does not say so
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import controlnet_aux.open_pose as library
    return library


def theirs(library: Any, points: tuple[Keypoint, ...]) -> list[Any]:
    # Unseen points are at -1, as controlnet-aux's own detectors write them: its drawing knows no None here.
    return [library.Keypoint(*(point or (-1, -1))) for point in points]


def iou(one: Levels, other: Levels) -> float:
    here, there = one.any(axis=2), other.any(axis=2)
    return float((here & there).sum() / (here | there).sum())


def ours(figure: Figure, width: int = SIDE, height: int = SIDE, style: Any = "openpose") -> Levels:
    return np.asarray(draw_figures([figure], width=width, height=height, style=style))


@pytest.mark.parametrize("points", [LEFT, RIGHT, tuple(None if n in (3, 4, 9) else p for n, p in enumerate(LEFT))])
def test_a_hand_is_the_oracles(library: Any, points: tuple[Keypoint, ...]) -> None:
    drawn = library.util.draw_handpose(np.zeros((SIDE, SIDE, 3), np.uint8), theirs(library, points))
    mine = ours(Figure(NOBODY, left_hand=points))
    assert iou(drawn, mine) >= HAND_IOU_MIN
    both = drawn.any(axis=2) & mine.any(axis=2)
    assert (drawn == mine).all(axis=2)[both].mean() >= 0.9, "the same hue for each finger, and blue discs"


@pytest.mark.parametrize("points", [FACE, face(0.4, 0.45, 70), (None, *FACE[1:])])
def test_a_face_is_the_oracles(library: Any, points: tuple[Keypoint, ...]) -> None:
    drawn = library.util.draw_facepose(np.zeros((SIDE, SIDE, 3), np.uint8), theirs(library, points))
    mine = ours(Figure(NOBODY, face=points))
    assert iou(drawn, mine) >= FACE_IOU_MIN
    assert {tuple(colour) for colour in mine.reshape(-1, 3)} == {(0, 0, 0), (255, 255, 255)}


def test_a_whole_person_is_the_oracles(library: Any) -> None:
    body = library.BodyResult([None if p is None else library.Keypoint(*p) for p in BODY], 1.0, 18)
    person = library.PoseResult(body, *(theirs(library, part) for part in (LEFT, RIGHT, FACE)))
    drawn = library.draw_poses([person], SIDE, SIDE)
    assert iou(drawn, ours(Figure(BODY, LEFT, RIGHT, FACE))) >= 0.85


@pytest.mark.parametrize(("width", "height"), [(448, 320), (832, 640), (1024, 1024), (1536, 640), (2048, 1024)])
@pytest.mark.parametrize("person", [BODY, SITTING.people[0]], ids=["waving", "sitting"])
def test_xinsirs_bodies_are_the_oracles(library: Any, person: Any, width: int, height: int) -> None:
    half = 4 * xinsir_factor(width, height)
    source = inspect.getsource(library.util.draw_bodypose)
    changed = source.replace("stickwidth = 4", f"stickwidth = {half}").replace(
        "int(y)), 4, color", f"int(y)), {half}, color"
    )
    assert changed.count(str(half)) >= 2
    names = dict(vars(library.util))
    exec(changed, names)
    points = [None if p is None else library.Keypoint(*p) for p in person]
    drawn = names["draw_bodypose"](np.zeros((height, width, 3), np.uint8), points)
    assert iou(drawn, ours(Figure(person, LEFT, RIGHT, FACE), width, height, "xinsir")) >= XINSIR_IOU_MIN


def test_xinsirs_sticks_grow_by_steps() -> None:
    """As its model card says: 1 below 500 pixels, 2 below 1000, then one more for each further 1000, up to 7."""
    sides = {499: 1, 500: 2, 999: 2, 1000: 3, 1999: 3, 2000: 4, 3000: 5, 4000: 6, 4999: 6, 5000: 7, 9000: 7}
    assert {side: xinsir_factor(16, side) for side in sides} == sides


def drawn(pose: Any, width: int = 256, height: int = 256, style: Any = "openpose") -> Any:
    return control_picture(pose, None, width=width, height=height, limits=PictureLimits(), style=style)


def test_requests_hands_and_faces_are_drawn_where_the_style_has_them() -> None:
    plain = PeoplePose(people=(BODY,))
    detailed = PeoplePose(people=(BODY,), hands=((LEFT, None),), face=(FACE,))
    assert drawn(plain).picture.tobytes() != drawn(detailed).picture.tobytes()
    assert drawn(detailed).warning is None
    left_out = drawn(detailed, style="xinsir")
    assert left_out.picture.tobytes() == drawn(plain, style="xinsir").picture.tobytes()
    assert "hands and faces are not drawn" in str(left_out.warning)


def flat(points: Any, width: int, height: int) -> list[float]:
    return [v for p in points for v in ((0.0, 0.0, 0.0) if p is None else (p[0] * width, p[1] * height, 0.9))]


def test_openposes_objects_draw_what_lists_do() -> None:
    lists = PeoplePose(people=(BODY,), hands=((LEFT, RIGHT),), face=(FACE,))
    objects = OpenPosePeople.model_validate(
        {
            "format": "openpose_people",
            "canvas": {"width": 1024, "height": 512},
            "people": [
                {
                    "person_id": [-1],
                    "pose_keypoints_2d": flat(BODY, 1024, 512),
                    "hand_left_keypoints_2d": flat(LEFT, 1024, 512),
                    "hand_right_keypoints_2d": flat(RIGHT, 1024, 512),
                    "face_keypoints_2d": flat(FACE, 1024, 512),
                    "pose_keypoints_3d": [],
                }
            ],
        }
    )
    assert drawn(lists).picture.tobytes() == drawn(objects).picture.tobytes()


@pytest.mark.parametrize("fit", ["stretch", "contain", "cover"])
def test_a_canvas_fits_the_output(fit: Any) -> None:
    """Sides of a square on the canvas keep their ratio, or take the output's."""
    wide = PeoplePose(people=(BODY,), canvas=CanvasSize(width=1000, height=500), fit=fit)
    [figure] = wide.figures(400, 400)
    (x0, y0), (x1, y1) = figure.body[1], BODY[1]  # type: ignore[misc]
    expected = {
        "stretch": (x1, y1),
        "contain": (x1, 0.5 + (y1 - 0.5) / 2),
        "cover": (0.5 + (x1 - 0.5) * 2, y1),
    }[fit]
    assert (x0, y0) == pytest.approx(expected)


def test_somebody_without_a_limb_is_left_out_and_said() -> None:
    dot = ((0.5, 0.5), *(None,) * 17)
    both = drawn(PeoplePose(people=(BODY, dot)))
    assert both.picture.tobytes() == drawn(PeoplePose(people=(BODY,))).picture.tobytes()
    assert "1 of the pose's 2 people have no limb" in str(both.warning)
    with pytest.raises(RenderFault, match="nobody in the pose") as caught:
        drawn(PeoplePose(people=(dot,)))
    assert caught.value.code == "pose_not_found"
