"""Documents of keypoints as the field's tools write them, made of one person whose points are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("poses")
SIZE = (640, 400)
WIDE = (1024, 768)
NEAR = 0.003
"""Of the picture's width and height."""
RIGHT = json.loads((FOLDER / "right.json").read_text())
"""The person of most files: coco18 as fractions, right ankle and left ear unseen."""
WITH_ANKLE = [*RIGHT[:10], [0.47, 0.725], *RIGHT[11:17], [0.51, 0.142]]
"""The person of the wide files."""
BACK_TO_COCO17 = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
NO_SIZE = "does not say of how large a picture"

Person = list[list[float] | None]


def without(*points: int) -> Person:
    return [None if index in points else point for index, point in enumerate(RIGHT)]


def pixels(person: Person = RIGHT) -> list[list[float]]:
    return [[0.0, 0.0] if point is None else [point[0] * SIZE[0], point[1] * SIZE[1]] for point in person]


def openpose(person: Person, confidence: float = 0.9, **more: Any) -> dict[str, Any]:
    flat = [value for point in person for value in ([0, 0, 0] if point is None else [*point, confidence])]
    return {"people": [{"pose_keypoints_2d": flat}], **more}


def second_person_empty() -> Any:
    frame = openpose(RIGHT, canvas_width=640, canvas_height=400)
    frame["people"].append({"pose_keypoints_2d": [0.0] * 54})
    return [frame]


def centred() -> Any:
    return openpose([None if point is None else [2 * point[0] - 1, 2 * point[1] - 1] for point in RIGHT], version=1.3)


def coco17_zeros() -> Any:
    return [[RIGHT[index] or [0, 0] for index in BACK_TO_COCO17]]


def mmpose_video() -> Any:
    points = pixels()
    person = {
        "keypoints": [points[index] for index in BACK_TO_COCO17],
        "keypoint_scores": [0.9 if RIGHT[index] else 0.1 for index in BACK_TO_COCO17],
    }
    return {"meta_info": {}, "instance_info": [{"frame_id": n, "instances": [person]} for n in (1, 2)]}


COCO17_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip


def movenet() -> Any:
    points = pixels()
    return [
        {
            "score": 0.8,
            "keypoints": [
                {"x": points[index][0], "y": points[index][1], "score": 0.9 if RIGHT[index] else 0.1, "name": name}
                for name, index in zip(COCO17_NAMES, BACK_TO_COCO17, strict=True)
            ],
        }
    ]


def posenet() -> Any:
    poses = movenet()
    for point in poses[0]["keypoints"]:
        side, _, part = point.pop("name").partition("_")
        point["part"] = side + part.capitalize()
        point["position"] = {"x": point.pop("x"), "y": point.pop("y")}
    return poses


def alphapose_halpe() -> Any:
    points = pixels()
    flat = [value for index in BACK_TO_COCO17 for value in (*points[index], 0.9 if RIGHT[index] else 0.05)]
    return [{"image_id": "a.jpg", "category_id": 1, "keypoints": flat + [5.0, 5.0, 0.9] * 9, "score": 2.5}]


def coco17(person: Person = RIGHT) -> list[list[float]]:
    points = pixels(person)
    return [points[index] for index in BACK_TO_COCO17]


def hand(x: float, y: float) -> list[list[float]]:
    return [[x + index / 400, y + index / 500] for index in range(21)]


def face(x: float, y: float) -> list[list[float]]:
    return [[x + index / 1000, y + index / 900] for index in range(68)]


def dwpose(*, as_rows: bool = False) -> Any:
    """DWPose's dictionary of two people, the second one half the size; hands of the first."""
    small = [None if point is None else [point[0] / 2, point[1] / 2] for point in RIGHT]
    candidate = [[[-1, -1] if point is None else point for point in person] for person in (RIGHT, small)]
    subset = [[-1 if point is None else 18 * n + at for at, point in enumerate(RIGHT)] for n in range(2)]
    nothing = [[-1, -1]] * 21
    return {
        "bodies": {"candidate": candidate if as_rows else [*candidate[0], *candidate[1]], "subset": subset},
        "hands": [hand(0.7, 0.2), nothing, hand(0.2, 0.1), nothing],
        "faces": [face(0.45, 0.1), [[-1, -1]] * 68],
    }


HALF: Person = [None if point is None else [point[0] / 2, point[1] / 2] for point in RIGHT]


def alphapose(body: str) -> Any:
    """AlphaPose's `--format open` and `cmu`: an object by pictures' names."""
    flat = openpose(RIGHT)["people"][0]["pose_keypoints_2d"]
    listed, member = ("people", "pose_keypoints_2d") if body == "open" else ("bodies", "joints")
    frame = {"version": "AlphaPose v0.3", listed: [{member: flat}]}
    return {"0.jpg": frame, "1.jpg": frame}


def halpe_136() -> Any:
    points = [*coco17(), *[[9.0, 9.0]] * 9]
    parts = [*face(0.45, 0.1), *hand(0.7, 0.2), *hand(0.2, 0.1)]
    points += [[x * SIZE[0], y * SIZE[1]] for x, y in parts]
    flat = [value for x, y in points for value in (x, y, 0.0 if (x, y) == (0, 0) else 0.9)]
    return [{"image_id": "a.jpg", "category_id": 1, "keypoints": flat, "score": 2.5}]


def coco_wholebody() -> Any:
    flat = [value for x, y in coco17() for value in (x, y, 0 if x == 0 else 2)]
    left = [value for x, y in hand(0.7, 0.2) for value in (x * 640, y * 400, 0.8)]
    annotation = {"image_id": 7, "keypoints": flat, "lefthand_kpts": left, "righthand_kpts": [0.0] * 63}
    return {"images": [{"id": 7, "width": 640, "height": 400}], "annotations": [{**annotation, "face_kpts": [0] * 204}]}


OTHER_ORDER = (16, 3, 0, 9, 12, 5, 1, 7, 14, 2, 11, 6, 10, 4, 15, 8, 13)


def label_studio_coco(*, names_in_order: bool) -> Any:
    """Label Studio's COCO: whole pixels by `model_index`, and names in the order of its configuration."""
    places = OTHER_ORDER if names_in_order else range(17)
    flat = [value for at in places for value in (*map(round, coco17()[at]), 2 if RIGHT[BACK_TO_COCO17[at]] else 0)]
    annotation = {
        "id": 0,
        "image_id": 0,
        "category_id": 1,
        "keypoints": flat,
        "num_keypoints": 15,
        "bbox": [1, 2, 3, 4],
    }
    names = [COCO17_NAMES[at] for at in OTHER_ORDER]
    categories = [{"id": 0, "name": "person"}, {"id": 1, "name": "default", "keypoints": names, "skeleton": []}]
    images = [{"id": 0, "width": 640, "height": 400, "file_name": "a.jpg"}]
    return {"images": images, "categories": categories, "annotations": [annotation], "info": {}}


def vitpose() -> Any:
    """transformers leaves out the points below its threshold, and names the others by their place."""
    seen = [(place, row) for place, row in enumerate(coco17()) if row != [0, 0]]
    person = {
        "keypoints": [row for _, row in seen],
        "scores": [0.8] * len(seen),
        "labels": [place for place, _ in seen],
    }
    return [[{**person, "bbox": [1, 2, 3, 4]}]]


def roboflow() -> Any:
    points = [
        {"x": x, "y": y, "confidence": 0.9 if x else 0.01, "class_id": place, "class": name}
        for place, (name, (x, y)) in enumerate(zip(COCO17_NAMES, coco17(), strict=True))
    ]
    person = {"x": 300.0, "y": 200.0, "width": 400, "height": 380, "confidence": 0.9, "class": "person"}
    return {"predictions": [{**person, "keypoints": points}], "image": {"width": 640, "height": 400}}


def ml5() -> Any:
    return [{"pose": posenet()[0], "skeleton": []}]


def rtmlib() -> Any:
    return {"keypoints": [coco17()], "scores": [[0.9 if x else 0.1 for x, _ in coco17()]]}


def holistic() -> Any:
    document = json.loads((FOLDER / "mediapipe_legacy_message_to_json.json").read_text())
    left = [{"x": x, "y": y, "z": 0.0} for x, y in hand(0.7, 0.2)]
    return {"poseLandmarks": document["landmark"], "leftHandLandmarks": left, "faceLandmarks": left}


def mediapipe_film() -> Any:
    document = json.loads((FOLDER / "mediapipe_tasks_js.json").read_text())
    return [document, document]


def ours_with(**fields: Any) -> Callable[[], Any]:
    return lambda: {"people": [[None if point is None else [*point, 0.9] for point in RIGHT]], **fields}


def openpose_people() -> Any:
    flat = [value for x, y in pixels() for value in (x, y, 0.9 if x else 0)]
    people = [{"person_id": [-1], "pose_keypoints_2d": flat}]
    return {"format": "openpose_people", "canvas": {"width": 640, "height": 400}, "people": people}
