"""Proves what becomes of a photo: bounded, looked at in one size, its people drawn as if they had been sent."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from PIL import Image

from darkroom.inference.pose.control import picture_content, pose_digest
from darkroom.inference.pose.photo import (
    LONG_SIDE_PX_MAX,
    NO_DETECTOR,
    SHORT_SIDE_PX,
    DetectedPerson,
    PoseDetector,
    detection_size,
    find_people,
    no_detector,
    nobody_found,
)
from darkroom.inference.pose.picture import PictureLimits
from darkroom.inference.types import FaultKind, RenderFault
from darkroom.schemas.errors import MESSAGE_CHARACTERS_MAX
from darkroom.schemas.events.keypoints import Keypoint
from darkroom.schemas.events.pose import PEOPLE_MAX, PhotoPose, StoredPicture

PHOTO = PhotoPose(photo=StoredPicture(bucket="darkroom", key="photo.jpg"))


class Seer(PoseDetector):
    """A detector that sees what it was told to, and remembers what it was shown."""

    def __init__(self, *people: DetectedPerson) -> None:
        self.people = people
        self.shown: list[Image.Image] = []

    @property
    def digest(self) -> str:
        return "sha256:" + "0" * 64

    def find(self, picture: Image.Image) -> Sequence[DetectedPerson]:
        self.shown.append(picture)
        return self.people


def person(x: float, score: float = 1.0) -> DetectedPerson:
    points: list[Keypoint] = [None] * 18
    points[1], points[2] = (x, 0.25), (x + 0.01, 0.25)
    return DetectedPerson(tuple(points), score)


def photo(width: int, height: int, kind: str = "JPEG", **how: object) -> bytes:
    content = io.BytesIO()
    picture = Image.new("RGB", (width, height), "grey")
    picture.paste("red", (0, 0, width // 2, height // 2))
    picture.save(content, kind, **how)
    return content.getvalue()


@pytest.mark.parametrize(
    ("size", "looked_at"),
    [
        ((512, 512), (512, 512)),
        ((4032, 3024), (683, 512)),
        ((600, 900), (512, 768)),
        ((64, 48), (683, 512)),
        ((3000, 500), (1024, 171)),
        ((1, 4000), (1, 1024)),
    ],
)
def test_a_photo_is_looked_at_in_the_detectors_size(size: tuple[int, int], looked_at: tuple[int, int]) -> None:
    assert detection_size(*size) == looked_at
    assert max(looked_at) <= LONG_SIDE_PX_MAX
    assert min(looked_at) <= SHORT_SIDE_PX


def test_the_detector_is_shown_the_photo_upright_and_small() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture has to be turned by a quarter
    seer = Seer(person(0.5))
    find_people(photo(900, 600, exif=exif.tobytes()), seer, PictureLimits())
    [shown] = seer.shown
    assert (shown.size, shown.mode) == ((512, 768), "RGB")
    red = shown.getpixel((400, 100))
    assert isinstance(red, tuple)
    assert red[0] > 200 > 60 > red[1], "what was on the left above is on the right above"


def test_people_come_from_left_to_right() -> None:
    found = find_people(photo(64, 64), Seer(person(0.7), person(0.2), person(0.4)), PictureLimits())
    assert found.pose is not None
    assert found.pose.format == "coco18"
    assert [one[1] for one in found.pose.people] == [(0.2, 0.25), (0.4, 0.25), (0.7, 0.25)]
    assert (found.seen, found.warning) == (3, None)


def test_of_a_crowd_the_clearest_are_kept_and_the_requester_is_told() -> None:
    crowd = [person(number / 20, score=number) for number in range(PEOPLE_MAX + 3)]
    found = find_people(photo(64, 64), Seer(*crowd), PictureLimits())
    assert found.pose is not None
    assert [one[1] for one in found.pose.people] == [(number / 20, 0.25) for number in range(3, PEOPLE_MAX + 3)]
    assert found.warning == "The pose's photo shows 11 people: the 8 largest were used."


def test_the_largest_come_first_and_are_kept() -> None:
    sizes = [0.02 * (1 + number * 7 % 10) for number in range(PEOPLE_MAX + 2)]
    crowd = []
    for size in sizes:
        points: list[Keypoint] = [None] * 18
        points[1], points[8] = (0.5, 0.1), (0.5, 0.1 + size)
        crowd.append(DetectedPerson(tuple(points), score=1 - size))
    found = find_people(photo(64, 64), Seer(*crowd), PictureLimits())
    lengths = [one.points[8][1] - 0.1 for one in found.found if one.points[8] is not None]
    assert lengths == pytest.approx(sorted(sizes, reverse=True)[:PEOPLE_MAX])
    assert found.seen == PEOPLE_MAX + 2


def test_what_was_found_is_told_with_its_scores() -> None:
    points: list[Keypoint] = [None] * 18
    points[1], points[2] = (0.5, 0.25), (0.61, 1 / 3)
    scores = (0.0, 0.75, 0.5, *(0.0,) * 15)
    found = find_people(photo(64, 64), Seer(DetectedPerson(tuple(points), 1.2, scores)), PictureLimits())
    [told] = found.found
    assert told.points[:4] == (None, (0.5, 0.25, 0.75), (0.61, 0.3333, 0.5), None)
    assert told.score == 1


def test_nobody_is_no_pose() -> None:
    found = find_people(photo(64, 64), Seer(), PictureLimits())
    assert (found.pose, found.seen) == (None, 0)
    fault = nobody_found()
    assert (fault.kind, fault.code) == (FaultKind.REQUEST, "pose_not_found")


@pytest.mark.parametrize(
    ("content", "limits", "code"),
    [
        (photo(64, 64), PictureLimits(bytes_max=100), "image_too_large"),
        (photo(64, 64), PictureLimits(pixels_max=255), "image_too_large"),
        (photo(64, 64)[:200], PictureLimits(), "pose_unreadable"),
        (b"no picture", PictureLimits(), "pose_unreadable"),
    ],
)
def test_a_photo_is_bounded_as_skeleton_pictures_are(content: bytes, limits: PictureLimits, code: str) -> None:
    seer = Seer(person(0.5))
    with pytest.raises(RenderFault) as caught:
        find_people(content, seer, limits)
    assert (caught.value.kind, caught.value.code) == (FaultKind.REQUEST, code)
    assert not seer.shown


def test_without_a_detector_the_sentence_says_what_to_do() -> None:
    fault = no_detector()
    assert (fault.kind, fault.code, fault.message) == (FaultKind.REQUEST, "pose_unreadable", NO_DETECTOR)
    for said in ("darkroom[pose]", "body_pose_model.pth", "DARKROOM_MODEL__POSE_DETECTOR_PATH", "non-commercial"):
        assert said in fault.message
    assert len(fault.message) <= MESSAGE_CHARACTERS_MAX, "it is cut nowhere on its way"


def test_a_photo_is_told_from_a_skeleton_of_the_same_bytes() -> None:
    from darkroom.schemas.events.pose import SkeletonPose

    skeleton = SkeletonPose(image=PHOTO.photo)
    assert pose_digest(PHOTO, b"bytes") != pose_digest(skeleton, b"bytes")
    assert pose_digest(PHOTO, b"bytes") != pose_digest(PHOTO, b"other bytes")
    assert picture_content(PHOTO, b"bytes") == b"bytes"
    with pytest.raises(RenderFault, match=r"darkroom/photo\.jpg was not fetched"):
        picture_content(PHOTO, None)
