"""One pose, one control picture: RGB at the output's size, whatever the pose was given as.

A pose is drawn, or decoded and stretched. What two poses must agree on to give the same picture is their content
digest, so that it can stand in a cache's key before any drawing is done.
"""

from __future__ import annotations

import hashlib

from PIL import Image

from inference.contract import FaultKind, RenderFault
from inference.pose.picture import PictureLimits, decode_picture
from inference.pose.skeleton import coco17_to_coco18, draw_people
from schemas.pose import InlinePicture, PeoplePose, PhotoPose, Pose, SkeletonPose


def pose_digest(pose: Pose, stored: bytes | None) -> str:
    """A digest of all that decides the control picture but its size.

    `stored` are the bytes of a picture that the pose only names. Raises `RenderFault` as `control_picture` does for a
    pose that has no picture at all.
    """
    if isinstance(pose, PeoplePose):
        return "people:" + hashlib.sha256(repr((pose.format, pose.people)).encode()).hexdigest()
    return "picture:" + hashlib.sha256(_content(pose, stored)).hexdigest()


def control_picture(pose: Pose, stored: bytes | None, *, width: int, height: int, limits: PictureLimits) -> Image.Image:
    """The picture that conditions the ControlNet: RGB, `width` x `height` pixels.

    A skeleton picture of another aspect is stretched, as diffusers' pipelines do. Raises `RenderFault` of the request:
    `image_too_large` or `pose_unreadable`.
    """
    if isinstance(pose, PeoplePose):
        people = [coco17_to_coco18(person) if pose.format == "coco17" else person for person in pose.people]
        return draw_people(people, width=width, height=height)
    picture = decode_picture(_content(pose, stored), limits)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _content(pose: SkeletonPose | PhotoPose, stored: bytes | None) -> bytes:
    if isinstance(pose, PhotoPose):
        raise RenderFault(
            FaultKind.REQUEST,
            "pose_unreadable",
            "A pose photo needs the OpenPose detector, which this worker does not have: "
            "send keypoints or a skeleton picture instead.",
        )
    if isinstance(pose.image, InlinePicture):
        return pose.image.content
    if stored is None:
        raise RenderFault(
            FaultKind.REQUEST,
            "pose_unreadable",
            f"The pose's picture {pose.image.bucket}/{pose.image.key} was not fetched: check its bucket and key.",
        )
    return stored
