"""From a photo to the keypoints of the people in it.

The detector itself stands behind a protocol, because it needs torch and an optional extra (`inference.pose.openpose`):
what is bounded, counted and refused here is the same for any. What is found is a pose like one that was sent as
keypoints and goes the same way from here on, so that photos, keypoints and training agree on every line drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from PIL import Image

from inference.contract import FaultKind, RenderFault
from inference.pose.picture import PictureLimits, decode_picture
from schemas.keypoints import Keypoint
from schemas.pose import PEOPLE_MAX, PeoplePose

SHORT_SIDE_PX: Final = 512
"""The resolution that OpenPose's ControlNet detector works at. Photos are brought to it, up or down."""
LONG_SIDE_PX_MAX: Final = 1024
"""A panorama is made smaller instead. Detecting takes some 800 bytes for each of these pixels, 400 MiB at most."""

DETECTOR_BYTES: Final = 512 * 1024 * 1024
"""What a memory plan sets aside on the device: 200 MiB of weights, and what lies between the network's layers."""

NO_DETECTOR: Final = (
    "A photo needs the OpenPose body detector, which this worker does not have: send keypoints or a skeleton picture "
    "instead. To have it, install darkroom[pose] (CMU's licence of the detector allows non-commercial use only), fetch "
    "body_pose_model.pth of lllyasviel/ControlNet (annotator/ckpts), and set DARKROOM_MODEL__POSE_DETECTOR_PATH to it."
)
NOBODY_FOUND: Final = (
    "The OpenPose detector found nobody in the pose's photo: send one with a whole person well in view, or keypoints."
)


@dataclass(frozen=True, slots=True)
class DetectedPerson:
    """One person as a detector found them."""

    points: tuple[Keypoint, ...]
    """18 points (coco18), as fractions of the picture."""
    score: float
    """How sure the detector is of the whole person: more for more and clearer points."""


class PoseDetector(Protocol):
    """Finds people in pictures. Belongs to the prepare lane."""

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hexadecimal digits over all that decides what it finds in a given picture."""

    def find(self, picture: Image.Image) -> Sequence[DetectedPerson]:
        """Everybody in an RGB picture, in any order. Raises `RenderFault` of the request where it cannot tell."""


@dataclass(frozen=True, slots=True)
class PhotoPeople:
    """What was found in a photo."""

    pose: PeoplePose | None
    """The people to be drawn; None for nobody."""
    seen: int
    """How many there were. More than `PEOPLE_MAX` are not all in `pose`."""

    @property
    def warning(self) -> str | None:
        """The sentence for the requester where somebody was left out, else None."""
        if self.seen <= PEOPLE_MAX:
            return None
        return f"The pose's photo shows {self.seen} people: the {PEOPLE_MAX} that are clearest were used."


def find_people(content: bytes, detector: PoseDetector, limits: PictureLimits) -> PhotoPeople:
    """The people in an encoded photo, from left to right; of more than `PEOPLE_MAX` the detector's surest.

    Raises `RenderFault` as `decode_picture` and the detector do.
    """
    photo = decode_picture(content, limits)
    found = detector.find(photo.resize(detection_size(*photo.size), Image.Resampling.LANCZOS))
    kept = sorted(found, key=lambda person: person.score, reverse=True)[:PEOPLE_MAX]
    kept.sort(key=_leftmost)
    if not kept:
        return PhotoPeople(None, 0)
    return PhotoPeople(PeoplePose(people=tuple(person.points for person in kept)), len(found))


def detection_size(width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels at which a photo of `width` x `height` is looked at."""
    scale = min(SHORT_SIDE_PX / min(width, height), LONG_SIDE_PX_MAX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def no_detector() -> RenderFault:
    """The fault of a photo that comes to a worker without a detector."""
    return RenderFault(FaultKind.REQUEST, "pose_unreadable", NO_DETECTOR)


def nobody_found() -> RenderFault:
    """The fault of a photo without people: a black control picture would be painted as no pose at all."""
    return RenderFault(FaultKind.REQUEST, "pose_not_found", NOBODY_FOUND)


def _leftmost(person: DetectedPerson) -> float:
    return min((point[0] for point in person.points if point is not None), default=0.0)
