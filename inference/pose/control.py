"""Makes the control picture of a pose: RGB, of the output's size.

Keypoints are drawn, a skeleton picture is decoded and stretched, and a photo becomes keypoints first
(`darkroom.inference.pose.photo`). Poses with equal digests give the same picture, so a digest can serve as a cache key
before anything is drawn.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from PIL import Image

from darkroom.inference.pose.picture import POSE_PICTURE, PictureLimits, decode_picture
from darkroom.inference.pose.skeleton import draw_figures, draws_details
from darkroom.inference.types import FaultKind, RenderFault
from darkroom.schemas.events.keypoints import Figure, PoseStyle
from darkroom.schemas.events.pose import (
    NOBODY_IN_PICTURE,
    InlinePicture,
    KeypointPose,
    OpenPosePeople,
    PhotoPose,
    Pose,
    SkeletonPose,
)

DARK_LEVEL: Final = 24
"""Levels (of 255) below this count as background, which includes JPEG's noise on black."""
CELLS: Final = 64
BRIGHT_LEVEL: Final = 48
DARK_SHARE_MIN: Final = 0.5
COLOURED_SHARE_MIN: Final = 0.5
COLOUR_SHARE_MIN: Final = 0.4
"""Share of a bright cell's highest channel by which its lowest must lie below it; otherwise the cell counts as grey."""

NOBODY_DRAWN: Final = (
    "{} shows nobody: it has only one colour, which is what a pose extractor writes if it finds "
    "nobody. Send the skeleton of a person, keypoints, or a photo as `photo`."
)
_UNLIKE: Final = (
    "the pose's picture does not look like an OpenPose skeleton on black ({}), and the model may not follow it: send a "
    "photo as `photo`, and keypoints as `people`"
)


def pose_digest(pose: Pose, stored: bytes | None) -> str:
    """Return a digest of everything in the request that decides the control picture, except its size.

    `stored` is the content of a picture that the pose only names. Raises `RenderFault` as `picture_content` does.
    """
    if isinstance(pose, KeypointPose):
        return "people:" + hashlib.sha256(repr(_as_written(pose)).encode()).hexdigest()
    kind = "picture:" if isinstance(pose, SkeletonPose) else "photo:"
    return kind + hashlib.sha256(picture_content(pose, stored)).hexdigest()


class ControlPicture(NamedTuple):
    """The picture that conditions the ControlNet, with a warning."""

    picture: Image.Image
    """RGB, of the output's size."""
    warning: str | None
    """The sentence for the requester if a skeleton picture does not look like one, or somebody or something of the
    keypoints is not drawn; otherwise None."""


def control_picture(
    pose: KeypointPose | SkeletonPose,
    stored: bytes | None,
    *,
    width: int,
    height: int,
    limits: PictureLimits,
    style: PoseStyle = "openpose",
) -> ControlPicture:
    """Make the picture that conditions the ControlNet: RGB, `width` x `height` pixels.

    Keypoints are drawn in the model's `style`. A skeleton picture of another aspect is stretched, as diffusers'
    pipelines do. Raises `RenderFault` of the request: `image_too_large` or `pose_unreadable`, and `pose_not_found` for
    a picture of one colour and for keypoints without a limb in the picture.
    """
    if isinstance(pose, KeypointPose):
        figures = pose.figures(width, height)
        if not figures:
            raise RenderFault(FaultKind.REQUEST, "pose_not_found", NOBODY_IN_PICTURE)
        picture = draw_figures(figures, width=width, height=height, style=style)
        return ControlPicture(picture, _undrawn(pose, figures, style))
    skeleton = read_skeleton(picture_content(pose, stored), limits)
    return ControlPicture(skeleton.picture.resize((width, height), Image.Resampling.LANCZOS), skeleton.warning)


def _as_written(pose: KeypointPose) -> tuple[object, ...]:
    """Return everything of keypoints that decides their drawing; what is not given is not named."""
    details = () if isinstance(pose, OpenPosePeople) else (pose.hands, pose.face)
    placed = () if pose.canvas is None else (pose.canvas, pose.fit)
    return pose.format, pose.people, *placed, *(details if any(details) else ())


def _undrawn(pose: KeypointPose, figures: Sequence[Figure], style: PoseStyle) -> str | None:
    """Return the sentence on what of the keypoints is not drawn, else None."""
    left_out = len(pose.people) - len(figures)
    said = []
    if left_out:
        said.append(f"{left_out} of the pose's {len(pose.people)} people have no limb in the picture and are not drawn")
    if not draws_details(style) and any(figure.has_details for figure in figures):
        said.append("the pose's hands and faces are not drawn, since this model's drawing style has none")
    return "; ".join(said) or None


def read_skeleton(content: bytes, limits: PictureLimits, what: str = POSE_PICTURE) -> ControlPicture:
    """Decode a skeleton picture, at its own size, called `what`. Raises `RenderFault` as `control_picture` does."""
    picture = decode_picture(content, limits, what)
    if all(highest - lowest < DARK_LEVEL for lowest, highest in picture.getextrema()):  # type: ignore[misc]
        raise RenderFault(FaultKind.REQUEST, "pose_not_found", NOBODY_DRAWN.format(what))
    return ControlPicture(picture, unlike_a_skeleton(picture))


def unlike_a_skeleton(picture: Image.Image) -> str | None:
    """Return the sentence for a picture (RGB) that does not look like an OpenPose skeleton on black, else None.

    Pose ControlNets were trained on coloured sticks on black. The test looks at the means of 64 x 64 cells. In drawings
    by Darkroom, by controlnet-aux and with xinsir's thicker sticks, of one to eight people and also as JPEG, 59 to 99
    percent of the cells were dark, and 68 to 100 percent of the bright ones had a colour (lowest: eight people on 128
    pixels; a close-up with the white dots of a face). Photos and drawings on white were below 1 percent dark, grey
    skeletons and edge or depth maps had no colour, and MediaPipe's drawing had a colour in 23 percent.
    """
    small = picture.resize((CELLS, CELLS), Image.Resampling.BOX).tobytes()
    # Counted by colour: most cells of a skeleton are of one, so few are looked at.
    cells = Counter(zip(small[0::3], small[1::3], small[2::3], strict=True))
    dark = sum(count for cell, count in cells.items() if max(cell) < DARK_LEVEL)
    if dark < DARK_SHARE_MIN * CELLS * CELLS:
        return _UNLIKE.format("its ground is not black")
    bright = {cell: count for cell, count in cells.items() if max(cell) >= BRIGHT_LEVEL}
    coloured = sum(count for cell, count in bright.items() if max(cell) - min(cell) >= COLOUR_SHARE_MIN * max(cell))
    if coloured < COLOURED_SHARE_MIN * sum(bright.values()):
        return _UNLIKE.format("its limbs have no colours")
    return None


def picture_content(pose: SkeletonPose | PhotoPose, stored: bytes | None) -> bytes:
    """Return the content of the pose's picture. Raises `RenderFault` (`pose_unreadable`) if a named one was not
    fetched."""
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
