"""One pose, one control picture: RGB at the output's size, whatever the pose was given as.

A pose is drawn, or decoded and stretched; a photo becomes keypoints first (`inference.pose.photo`) and is drawn like
any others. What two poses must agree on to give the same picture is their content digest, so that it can stand in a
cache's key before any drawing is done.
"""

from __future__ import annotations

import hashlib

from PIL import Image

from inference.contract import FaultKind, RenderFault
from inference.pose.picture import PictureLimits, decode_picture
from inference.pose.skeleton import coco17_to_coco18, draw_people
from schemas.pose import InlinePicture, PeoplePose, PhotoPose, Pose, SkeletonPose


def pose_digest(pose: Pose, stored: bytes | None) -> str:
    """A digest of all in the request that decides the control picture but its size.

    `stored` are the bytes of a picture that the pose only names. Raises `RenderFault` as `picture_content` does.
    """
    if isinstance(pose, PeoplePose):
        return "people:" + hashlib.sha256(repr((pose.format, pose.people)).encode()).hexdigest()
    kind = "picture:" if isinstance(pose, SkeletonPose) else "photo:"
    return kind + hashlib.sha256(picture_content(pose, stored)).hexdigest()


def control_picture(
    pose: PeoplePose | SkeletonPose, stored: bytes | None, *, width: int, height: int, limits: PictureLimits
) -> Image.Image:
    """The picture that conditions the ControlNet: RGB, `width` x `height` pixels.

    A skeleton picture of another aspect is stretched, as diffusers' pipelines do. Raises `RenderFault` of the request:
    `image_too_large` or `pose_unreadable`.
    """
    if isinstance(pose, PeoplePose):
        people = [coco17_to_coco18(person) if pose.format == "coco17" else person for person in pose.people]
        return draw_people(people, width=width, height=height)
    picture = decode_picture(picture_content(pose, stored), limits)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def picture_content(pose: SkeletonPose | PhotoPose, stored: bytes | None) -> bytes:
    """The bytes of the pose's picture. Raises `RenderFault` (`pose_unreadable`) where it is named and not here."""
    picture = pose.image if isinstance(pose, SkeletonPose) else pose.photo
    if isinstance(picture, InlinePicture):
        return picture.content
    if stored is None:
        raise RenderFault(
            FaultKind.REQUEST,
            "pose_unreadable",
            f"The pose's picture {picture.bucket}/{picture.key} was not fetched: check its bucket and key.",
        )
    return stored
