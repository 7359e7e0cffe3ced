"""Proves that a request's keypoints mean the same person in every format, and that digests of older requests stay."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from darkroom.schemas.events.keypoints import (
    FRACTION_MAX,
    OPENPOSE_FACE_SCORE_MIN,
    OPENPOSE_HAND_SCORE_MIN,
    SCORE_MIN,
    Figure,
)
from darkroom.schemas.events.pose import KeypointPose
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.wire.digests import render_digest, request_digest

Point = list[float] | None


def words(text: str) -> list[str]:
    return text.split()


COCO18: list[Point] = [
    [0.47, 0.15], [0.49, 0.25], [0.41, 0.25], [0.3, 0.2], [0.22, 0.1], [0.57, 0.25], [0.68, 0.28], [0.79, 0.22],
    [0.46, 0.5], [0.34, 0.61], None, [0.55, 0.49], [0.57, 0.7], [0.54, 0.9], [0.45, 0.13], [0.48, 0.13], [0.43, 0.15],
    [0.51, 0.15],
]  # fmt: skip
BY_NAME = dict(
    zip(
        words("nose neck rsho relb rwri lsho lelb lwri rhip rkne rank lhip lkne lank reye leye rear lear"),
        COCO18,
        strict=True,
    )
)
COCO17 = words("nose leye reye lear rear lsho rsho lelb relb lwri rwri lhip rhip lkne rkne lank rank")
BODY25 = words(
    "nose neck rsho relb rwri lsho lelb lwri midhip rhip rkne rank lhip lkne lank reye leye rear lear "
    "toe toe heel toe toe heel"
)
BLAZEPOSE33 = words(
    "nose in leye out in reye out lear rear mouth mouth lsho rsho lelb relb lwri rwri pinky pinky index index thumb "
    "thumb lhip rhip lkne rkne lank rank heel heel toe toe"
)
HAND = [[0.7 + index / 400, 0.2 + index / 500] for index in range(21)]
FACE = [[0.45 + index / 1000, 0.1 + index / 900] for index in range(68)]


def listed(names: list[str]) -> list[Point]:
    return [BY_NAME.get(name, [0.9, 0.9]) for name in names]


def pose(**fields: Any) -> KeypointPose:
    request = GenerationRequest.model_validate({"request_id": "r", "prompt": "p", "pose": fields}, extra="forbid")
    assert isinstance(request.pose, KeypointPose)
    return request.pose


def same(figure: Figure, other: Figure) -> bool:
    return all(
        (a is None) is (b is None) and (a is None or b is None or a == pytest.approx(b))
        for one, another in zip(figure, other, strict=True)
        for a, b in zip(one, another, strict=True)
    )


def figure(**fields: Any) -> Figure:
    [only] = pose(**fields).figures(1024, 1024)
    return only


WHOLE = [*listed(COCO17), *[[0.9, 0.9]] * 6, *FACE, *HAND, *HAND]


@pytest.mark.parametrize(
    ("layout", "points"),
    [
        ("coco17", listed(COCO17)),
        ("body25", listed(BODY25)),
        ("blazepose33", listed(BLAZEPOSE33)),
        ("wholebody133", WHOLE),
    ],
)
def test_every_format_is_the_same_person(layout: str, points: list[Point]) -> None:
    read = figure(people=[points], format=layout)
    assert same(Figure(read.body), figure(people=[COCO18]))
    if layout == "wholebody133":
        assert read[1:] == (*[tuple(map(tuple, HAND))] * 2, tuple(map(tuple, FACE)))


@pytest.mark.parametrize("layout", ["coco18", "coco17", "body25", "blazepose33", "wholebody133"])
def test_scores_count_from_the_formats_threshold_on(layout: str) -> None:
    names = {"coco18": list(BY_NAME), "coco17": COCO17, "body25": BODY25, "blazepose33": BLAZEPOSE33}
    points = WHOLE if layout == "wholebody133" else listed(names[layout])
    at = SCORE_MIN[layout]
    scored = [None if point is None else [*point, at] for point in points]
    assert same(figure(people=[scored], format=layout), figure(people=[points], format=layout))
    scored[0] = [0.47, 0.15, at - 0.01]
    assert figure(people=[scored], format=layout).body[0] is None
    scored[0] = [0, 0, 1]
    assert figure(people=[scored], format=layout).body[0] is None


def flat(points: Any, score: float = 1.0, width: float = 1, height: float = 1) -> list[float]:
    return [v for p in points for v in ([0, 0, 0] if p is None else [p[0] * width, p[1] * height, score])]


@pytest.mark.parametrize("body", [list(BY_NAME), BODY25], ids=["coco", "body25"])
def test_openposes_objects_are_the_same_person_with_hands_and_face(body: list[str]) -> None:
    person = {
        "person_id": [-1],
        "pose_keypoints_2d": flat(listed(body), 0.05, 640, 400),
        "hand_left_keypoints_2d": flat(HAND, OPENPOSE_HAND_SCORE_MIN, 640, 400),
        "hand_right_keypoints_2d": flat(HAND, OPENPOSE_HAND_SCORE_MIN - 0.01, 640, 400),
        "face_keypoints_2d": flat(FACE, OPENPOSE_FACE_SCORE_MIN, 640, 400),
        "hand_left_keypoints_3d": [],
    }
    read = figure(people=[person], format="openpose_people", canvas={"width": 640.0, "height": 400})
    lists = figure(people=[COCO18], hands=[[HAND, None]], face=[FACE])
    assert same(read._replace(right_hand=()), lists)
    assert not any(read.right_hand)


def test_fractions_stay_fractions_beside_a_canvas() -> None:
    canvas = {"width": 640, "height": 400}
    pixels = [None if point is None else [point[0] * 640, point[1] * 400] for point in COCO18]
    for points in (COCO18, pixels):
        assert same(figure(people=[points], canvas=canvas), figure(people=[COCO18]))
    assert FRACTION_MAX == 4


def test_a_corner_stays_a_point_where_it_always_was_one() -> None:
    corner = [[[0, 0], *COCO18[1:]]]
    assert figure(people=corner).body[0] == (0, 0)
    assert figure(people=corner, canvas={"width": 640, "height": 400}).body[0] is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"people": [COCO18], "fit": "contain"}, "fit needs canvas"),
        ({"people": [COCO18], "fit": "crop", "canvas": {"width": 1, "height": 1}}, "'stretch', 'contain' or 'cover'"),
        ({"people": [COCO18], "canvas": {"width": 0, "height": 1}}, "canvas.width"),
        ({"people": [[[640, 400]] * 18]}, "give the size of their picture as `canvas`"),
        ({"people": [[[6400, 400]] * 18], "canvas": {"width": 640, "height": 400}}, "far outside of the canvas"),
        ({"people": [COCO18], "format": "body25"}, "person 0 has 18 points, body25 has 25"),
        ({"people": [[[0.1, 0.2, -0.4]] * 33], "format": "blazepose33"}, "write the visibility, not z"),
        ({"people": [COCO18], "hands": []}, "an item for each of the 1 people"),
        ({"people": [COCO18], "hands": [[HAND]]}, "hands"),
        ({"people": [COCO18], "hands": [[HAND[:20], None]]}, "hands"),
        ({"people": [COCO18], "face": [FACE[:60]]}, "face"),
        ({"people": [COCO18], "face": [[*FACE, [0.5, 0.5]]]}, "68 or 70 points"),
        ({"people": [WHOLE], "format": "wholebody133", "face": [FACE]}, "part of wholebody133's points"),
        ({"people": [{"pose_keypoints_2d": [1] * 54}]}, "set `format` to openpose_people"),
        ({"people": [{"pose_keypoints_2d": [1] * 9}], "format": "openpose_people"}, "of 18 or 25 points"),
        ({"people": [{"pose_keypoints_2d": []}], "format": "openpose_people"}, "no pose_keypoints_2d"),
        ({"people": [], "format": "openpose_people"}, "1 to 8 people"),
        (
            {"people": [{"pose_keypoints_2d": [300, 90, 1] * 18}], "format": "openpose_people"},
            "fractions of the picture",
        ),
        ({"people": [COCO18], "format": "openpose_people"}, "OpenPosePerson"),
    ],
)
def test_what_cannot_be_drawn_as_meant_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said.replace("(", r"\(")):
        pose(**fields)


def test_nobody_is_left_without_a_limb() -> None:
    dot = [[0.5, 0.5], *[None] * 17]
    apart = [[0.5, 0.5] if index in (0, 4, 9) else None for index in range(18)]
    assert pose(people=[dot]).figures() == ()
    assert len(pose(people=[dot, COCO18, apart]).figures()) == 1
    aside = [None if point is None else [point[0] + 1, point[1]] for point in COCO18]
    assert pose(people=[aside]).figures() == ()


def test_requests_of_before_have_the_digests_of_before() -> None:
    """Taken from the version before scores, canvases, hands and faces."""
    plain = {"request_id": "r", "prompt": "p", "seed": 7, "pose": {"people": [COCO18]}}
    coco17 = {**plain, "pose": {"people": [listed(COCO17)], "format": "coco17"}}
    nulls = {**plain, "pose": {"people": [COCO18], "format": None, "canvas": None, "fit": None, "hands": None}}
    digests = [request_digest(GenerationRequest.model_validate(each)) for each in (plain, coco17, nulls)]
    assert digests == [PLAIN_DIGEST, COCO17_DIGEST, PLAIN_DIGEST]
    request = GenerationRequest.model_validate(plain)
    assert render_digest(request, "rev", "1") == RENDER_DIGEST
    assert render_digest(request, "rev", "1", pose_style="xinsir") != RENDER_DIGEST
    others = ({"hands": [[HAND, None]]}, {"face": [FACE]}, {"canvas": {"width": 640, "height": 400}})
    made = {
        request_digest(GenerationRequest.model_validate({**plain, "pose": {"people": [COCO18], **other}}))
        for other in others
    }
    assert len(made | {PLAIN_DIGEST}) == 4


def test_python_and_json_read_alike() -> None:
    fields = {"request_id": "r", "prompt": "p", "pose": {"people": [COCO18], "hands": [[HAND, None]]}}
    assert GenerationRequest.model_validate(fields) == GenerationRequest.model_validate_json(json.dumps(fields))


PLAIN_DIGEST = "sha256:5547f9d4bc5d1a77f9a49e0adbfea56f94dc7520f21cc6a243da9d9372c8731a"
COCO17_DIGEST = "sha256:79181798972cdb79496fb7a74c5bc26d813d0c3cd7da5180a59ae82583f5d067"
RENDER_DIGEST = "sha256:01d722669e40f3bdacd8a77f027cd28476061ef9d09cd9a864db9290eaba671c"
