"""Finds the keypoints of the people in a photo.

The detector is behind a protocol, because each one needs an optional extra: `darkroom.inference.pose.blazepose` is the
default, `darkroom.inference.pose.openpose` needs torch and weights of its own. The limits, counts and refusals here
apply to both. The people found are drawn by the same code as keypoints from a request and as the training pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from PIL import Image

from darkroom.inference.pose.control import unlike_a_skeleton
from darkroom.inference.pose.picture import PictureLimits, decode_picture
from darkroom.inference.types import FaultKind, RenderFault
from darkroom.schemas.events.keypoints import Figure, Keypoint
from darkroom.schemas.events.pose import PEOPLE_MAX, FoundPerson, PeoplePose

SHORT_SIDE_PX: Final = 512
"""The resolution of OpenPose's ControlNet detector. Photos are scaled to it, up or down."""
LONG_SIDE_PX_MAX: Final = 1024
"""A panorama is scaled down instead. Detecting takes some 800 bytes for each of these pixels, 400 MiB at most."""

DETECTOR_BYTES: Final = 512 * 1024 * 1024
"""Memory that a plan reserves on the device: 200 MiB of weights, and the network's activations."""

NO_DETECTOR: Final = (
    "Photos need a person detector, and this worker has none: send keypoints or a skeleton picture instead. To add a "
    "detector, install darkroom[photos] (BlazePose, Apache-2.0). Or install darkroom[pose] (OpenPose, "
    "whose licence allows non-commercial use only), fetch body_pose_model.pth of lllyasviel/ControlNet "
    "(annotator/ckpts), and set DARKROOM_MODEL__POSE_DETECTOR_PATH to it."
)
NOBODY_FOUND: Final = (
    "The detector found nobody in the pose's photo: send one with a whole person well in view, or keypoints. A drawn "
    "skeleton goes as `image`."
)
SKELETON_AS_PHOTO: Final = (
    "the pose's photo looks like an OpenPose skeleton on black, and was searched for people all the same: send a "
    "skeleton as `image`"
)


@dataclass(frozen=True, slots=True)
class DetectedPerson:
    """One person as a detector found them."""

    points: tuple[Keypoint, ...]
    """18 points (coco18), as fractions of the picture."""
    score: float
    """The detector's confidence in the whole person, 0 to 1."""
    scores: tuple[float, ...] | None = None
    """Its confidence in each of the points, 0 to 1; None if it gives none."""

    @property
    def extent(self) -> float:
        """The longer side of the box about the points, as a fraction of the picture, to a thousandth."""
        seen = [point for point in self.points if point is not None]
        return max((round(max(axis) - min(axis), 3) for axis in zip(*seen, strict=True)), default=0.0)

    def as_found(self) -> FoundPerson:
        """Return the person in the form for the requester: four decimals are a tenth of a pixel in 1,024."""
        scores = self.scores or (1.0,) * len(self.points)
        return FoundPerson(
            points=tuple(
                None if point is None else (round(point[0], 4), round(point[1], 4), round(min(max(sure, 0.0), 1.0), 3))
                for point, sure in zip(self.points, scores, strict=True)
            ),
            score=round(min(max(self.score, 0.0), 1.0), 3),
        )


class PoseDetector(Protocol):
    """Finds people in pictures. Belongs to the prepare lane."""

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hexadecimal digits over everything that decides its findings in a given picture."""

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height in pixels at which a photo of `width` x `height` is examined."""
        return detection_size(width, height)

    def find(self, picture: Image.Image) -> Sequence[DetectedPerson]:
        """Return everybody in an RGB picture, in any order. Raises `RenderFault` of the request if it cannot tell."""


@dataclass(frozen=True, slots=True)
class PhotoPeople:
    """The people in a photo."""

    pose: PeoplePose | None
    """The people to draw; None if there are none."""
    seen: int
    """The number of people found. Of more than `PEOPLE_MAX`, `pose` has the largest."""
    found: tuple[FoundPerson, ...] = ()
    """The people of `pose`, in the same order, for the requester."""
    is_drawing: bool = False
    """True if the photo looks like a skeleton on black instead."""

    @property
    def warning(self) -> str | None:
        """The sentence for the requester if somebody was left out or the photo is a drawing, otherwise None."""
        if self.is_drawing:
            return SKELETON_AS_PHOTO
        if self.seen <= PEOPLE_MAX:
            return None
        return f"The pose's photo shows {self.seen} people: the {PEOPLE_MAX} largest were used."


def find_people(content: bytes, detector: PoseDetector, limits: PictureLimits) -> PhotoPeople:
    """Find the people in an encoded photo, at most the `PEOPLE_MAX` largest: the largest first, equals from the left.

    Somebody without a limb in the photo does not count.

    Raises `RenderFault` as `decode_picture` and the detector do.
    """
    photo = decode_picture(content, limits)
    size = detector.size(*photo.size)
    looked_at = photo if size == photo.size else photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    found = sorted(
        (person for person in detector.find(looked_at) if Figure(person.points).is_drawable),
        key=lambda person: (-person.extent, -person.score),
    )
    kept = sorted(found[:PEOPLE_MAX], key=lambda person: (-person.extent, _leftmost(person)))
    if not kept:
        return PhotoPeople(None, 0)
    return PhotoPeople(
        PeoplePose(people=tuple(person.points for person in kept)),
        len(found),
        tuple(person.as_found() for person in kept),
        is_drawing=unlike_a_skeleton(looked_at) is None,
    )


def detection_size(width: int, height: int) -> tuple[int, int]:
    """Return the width and height in pixels at which a photo of `width` x `height` is examined."""
    scale = min(SHORT_SIDE_PX / min(width, height), LONG_SIDE_PX_MAX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def no_detector() -> RenderFault:
    """Return the fault of a photo that reaches a worker without a detector."""
    return RenderFault(FaultKind.REQUEST, "pose_unreadable", NO_DETECTOR)


def nobody_found() -> RenderFault:
    """Return the fault of a photo without people: a black control picture would be painted as if there were no pose."""
    return RenderFault(FaultKind.REQUEST, "pose_not_found", NOBODY_FOUND)


def _leftmost(person: DetectedPerson) -> float:
    return min((point[0] for point in person.points if point is not None), default=0.0)
