"""Proves that pose files as people and tools write them become the poses they mean, or are refused with a way on."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import darkroom
from darkroom.producer.client.request_files import RequestUnreadable, request_of
from darkroom.producer.poses.files import Size, photo_of, pose_of, size_of
from darkroom.schemas.events.keypoints import coco17_to_coco18
from darkroom.schemas.events.pose import PeoplePose, PhotoPose, Pose, SkeletonPose

BYTES_MAX = 1024 * 1024
PERSON = [[0.5, 0.1 + index / 20] if index % 3 else None for index in range(18)]
OTHER = [[0.25, 0.1 + index / 20] for index in range(18)]


def picture(size: int = 64, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.effect_noise((size, size), 100).save(out, kind)
    return out.getvalue()


def accepted(pose: dict[str, Any]) -> Pose:
    """What the worker makes of it."""
    read = request_of({"request_id": "a", "prompt": "one", "pose": pose}, bytes_max=BYTES_MAX).pose
    assert read is not None
    return read


def people_in(folder: Path, content: Any, size: Size | None = None) -> PeoplePose:
    path = folder / "pose.json"
    path.write_text(json.dumps(content))
    pose = accepted(pose_of(path, size).pose)
    assert isinstance(pose, PeoplePose)
    return pose


def points(*people: Any) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(None if point is None else tuple(point) for point in person) for person in people)


@pytest.mark.parametrize(
    "content", [{"people": [PERSON]}, [PERSON], PERSON], ids=["a pose", "people alone", "one person alone"]
)
def test_keypoints_are_read_from_json(tmp_path: Path, content: Any) -> None:
    assert people_in(tmp_path, content) == PeoplePose(people=points(PERSON))


def test_several_people_are_read(tmp_path: Path) -> None:
    assert people_in(tmp_path, [PERSON, OTHER]).people == points(PERSON, OTHER)


def test_seventeen_points_are_cocos(tmp_path: Path) -> None:
    seventeen = OTHER[:17]
    right = coco17_to_coco18(points(seventeen)[0])
    for content in ([seventeen, seventeen], seventeen, {"people": [seventeen], "format": "coco17"}):
        pose = people_in(tmp_path, content)
        assert (pose.format, pose.people[0]) == ("coco18", right)


def test_pixels_are_read_where_the_pictures_size_is_told(tmp_path: Path) -> None:
    pixels = [None if point is None else [point[0] * 640, point[1] * 400] for point in PERSON]
    for content in ([pixels], pixels, {"people": [pixels], "format": "coco18"}):
        read = people_in(tmp_path, content, (640, 400)).people[0]
        for one, meant in zip(read, PERSON, strict=True):
            assert one == (None if meant is None else pytest.approx(tuple(meant)))


# --- What OpenPose writes -------------------------------------------------------------------------------


def openpose(*people: Any, width: int = 640, height: int = 400, **canvas: int) -> dict[str, Any]:
    return {
        "version": 1.3,
        "people": [
            {
                "person_id": [-1],
                "pose_keypoints_2d": [
                    number
                    for point in person
                    for number in ((0, 0, 0) if point is None else (point[0] * width, point[1] * height, 0.8))
                ],
                "face_keypoints_2d": [],
            }
            for person in people
        ],
        **canvas,
    }


CANVAS = {"canvas_width": 640, "canvas_height": 400}


def test_openposes_json_is_read_in_pixels(tmp_path: Path) -> None:
    written = openpose(PERSON, OTHER)
    for content, size in (
        (written, (640, 400)),
        (written | CANVAS, None),
        ([written | CANVAS], None),
        (openpose(PERSON, OTHER, width=64, height=40) | CANVAS, (64, 40)),
    ):
        pose = people_in(tmp_path, content, size)
        assert pose.format == "coco18"
        for read, meant in zip(pose.people, (PERSON, OTHER), strict=True):
            for one, point in zip(read, meant, strict=True):
                assert one == (None if point is None else pytest.approx(tuple(point)))


def test_openposes_newer_model_gives_the_same_eighteen(tmp_path: Path) -> None:
    """By the names of its 25 points, as its documentation lists them."""
    body_25 = (
        "Nose", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist", "MidHip", "RHip", "RKnee",
        "RAnkle", "LHip", "LKnee", "LAnkle", "REye", "LEye", "REar", "LEar", "LBigToe", "LSmallToe", "LHeel",
        "RBigToe", "RSmallToe", "RHeel",
    )  # fmt: skip
    coco18 = (
        "Nose", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist", "RHip", "RKnee", "RAnkle",
        "LHip", "LKnee", "LAnkle", "REye", "LEye", "REar", "LEar",
    )  # fmt: skip
    down = {"Nose": 1, "Neck": 2, "Eye": 0, "Ear": 0.5, "Shoulder": 2.2, "Elbow": 4, "Wrist": 6, "Hip": 6.2, "Knee": 9}
    down |= {"Ankle": 12, "MidHip": 6.1, "Heel": 12.5, "SmallToe": 12.8, "BigToe": 13}
    places = {}
    for name in body_25:
        part = name if name in down else name[1:]
        places[name] = [0.5 + (0 if part == name else 0.1 if name[0] == "L" else -0.1), (down[part] + 1) / 20]
    pose = people_in(tmp_path, openpose(list(places.values())) | CANVAS)
    for one, name in zip(pose.people[0], coco18, strict=True):
        assert one == pytest.approx(tuple(places[name])), name


def test_openposes_seventeen_points_are_cocos(tmp_path: Path) -> None:
    read = people_in(tmp_path, openpose(OTHER[:17]) | CANVAS).people[0]
    for one, meant in zip(read, coco17_to_coco18(points(OTHER[:17])[0]), strict=True):
        assert one == pytest.approx(meant)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (openpose(PERSON), r"does not say of how large a picture\. Say it: --pose-size"),
        (openpose(PERSON) | {"canvas_width": 0, "canvas_height": 400}, "how large a picture"),
        ({"people": [{"pose_keypoints_2d": [1, 2]}], **CANVAS}, r"pose\.json has 2 numbers for person 0"),
        ({"people": [{"pose_keypoints_2d": ["1"] * 54}], **CANVAS}, "no numbers in person 0"),
        ({"people": [{"hand_left_keypoints_2d": []}], **CANVAS}, "shows nobody"),
        ({"people": [{"pose_keypoints_2d": [1] * 54}, []], **CANVAS}, "person 1"),
    ],
)
def test_what_is_no_openpose_json_is_told(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "pose.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RequestUnreadable, match=said):
        pose_of(path)


@pytest.mark.parametrize(
    "content", [openpose() | CANVAS, [[]], [[None] * 18] * 9, PERSON[:16], [["x"] * 18], [[[640, 400]] * 18]]
)
def test_unlawful_keypoints_are_refused_with_a_way_on(tmp_path: Path, content: Any) -> None:
    with pytest.raises(RequestUnreadable, match=r"pose\.json (has|shows) .*\. [A-Z].*\.$"):
        people_in(tmp_path, content)


# --- Pictures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_picture_is_carried_as_a_skeleton_or_as_a_photo(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "pose"
    path.write_bytes(picture(kind=kind))
    skeleton, photo = accepted(pose_of(path).pose), accepted(photo_of(path))
    assert isinstance(skeleton, SkeletonPose)
    assert isinstance(photo, PhotoPose)
    for carried in (skeleton.image, photo.photo):
        assert base64.b64decode(carried.inline) == path.read_bytes()  # type: ignore[union-attr]


def test_a_picture_that_is_too_large_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(picture(1024))
    assert path.stat().st_size > 512 * 1024
    for read in (pose_of, photo_of):
        with pytest.raises(RequestUnreadable, match=r"large\.png has more than the 524288 bytes.*bucket"):
            read(path)


def test_other_files_are_no_poses(tmp_path: Path) -> None:
    path = tmp_path / "pose.txt"
    for content, said in (
        (b"hello", "neither JSON"),
        (b"{", "neither JSON"),
        (b"", "neither JSON"),
        (b'"text"', "no keypoints in a form that is known"),
        (b'{"x": 1}', "no keypoints in a form that is known"),
        (b"[]", "shows nobody"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIC, and only PNG, JPEG or WebP is read. Save it as JPEG"),
        (b"[" + b" " * 4 * 1024 * 1024 + b"]", "more than the 4194304 bytes"),
    ):
        path.write_bytes(content)
        with pytest.raises(RequestUnreadable, match=said):
            pose_of(path)
        with pytest.raises(RequestUnreadable, match="PNG, JPEG or WebP"):
            photo_of(path)
    for read in (pose_of, photo_of):
        with pytest.raises(RequestUnreadable, match="cannot be read"):
            read(tmp_path / "absent")


def test_a_size_is_written_as_width_x_height() -> None:
    assert size_of("1280x720") == (1280, 720)
    for text in ("1280", "x", "0x5", "-1x5", "1.5x2", "5x5x5", "1280X720", "100001x5", "٣x5"):
        with pytest.raises(ValueError, match="width"):
            size_of(text)


def test_programs_read_files_as_the_command_does(tmp_path: Path) -> None:
    path = tmp_path / "pose.json"
    path.write_text(json.dumps([openpose(PERSON) | CANVAS, openpose(OTHER) | CANVAS]))
    read = darkroom.pose_of(path)
    assert read == pose_of(path)
    request = darkroom.GenerationRequest(request_id="a", prompt="one", pose=read.pose)
    assert request.pose == accepted(read.pose)
    assert [number for number, _ in darkroom.frames_of(path)] == [1, 2]
