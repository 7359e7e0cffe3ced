"""Reads the control pictures of a request's `controls`: edges, depth and the other kinds beside skeletons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from PIL import Image

from darkroom.inference.pose.control import DARK_LEVEL, ControlPicture, read_skeleton
from darkroom.inference.pose.picture import PictureLimits, decode_picture
from darkroom.inference.types import FaultKind, RenderFault, RenderJob
from darkroom.schemas.events.controls import OPENPOSE, Control
from darkroom.schemas.events.pose import InlinePicture

_LINES: Final = frozenset({"canny", "softedge", "lineart", "scribble"})
"""Kinds whose ControlNets were trained with bright lines on black."""
LIGHT_LEVEL: Final = 128


def read_control(
    kind: str, content: bytes, *, field: str, width: int, height: int, limits: PictureLimits
) -> ControlPicture:
    """Return the control picture of a kind: RGB, stretched to `width` x `height` pixels as diffusers' pipelines do.

    `field` names it in messages: `controls.0`. Raises `RenderFault` as `decode_picture` does, and `pose_not_found` for
    a skeleton picture of one colour.
    """
    if kind == OPENPOSE:
        read = read_skeleton(content, limits, what=_named(field))
    else:
        picture = decode_picture(content, limits, what=_named(field))
        read = ControlPicture(picture, _unlike(kind, picture))
    return ControlPicture(read.picture.resize((width, height), Image.Resampling.LANCZOS), read.warning)


def control_contents(job: RenderJob) -> Iterator[tuple[str, Control, bytes]]:
    """Yield the field, the control and the encoded picture of each of a job's controls beside the pose.

    Raises `RenderFault` (`pose_unreadable`) if a named one was not fetched.
    """
    for number, control in enumerate(job.request.controls):
        field = f"controls.{number}"
        picture = control.image
        content = picture.content if isinstance(picture, InlinePicture) else job.pictures.get(field)
        if content is None:
            raise RenderFault(FaultKind.REQUEST, "pose_unreadable", f"{_named(field)} was not fetched.")
        yield field, control, content


def _named(field: str) -> str:
    return f"The picture of {field}"


def _unlike(kind: str, picture: Image.Image) -> str | None:
    """Return the sentence for a picture that can hardly be of its kind, else None."""
    if kind != "tile" and all(high - low < DARK_LEVEL for low, high in picture.getextrema()):  # type: ignore[misc]
        return f"the {kind} picture has only one colour, which is what an annotator writes if it finds nothing"
    # A reduction to one pixel is the mean.
    ground = picture.convert("L").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    if kind in _LINES and isinstance(ground, int) and ground > LIGHT_LEVEL:
        return (
            f"the {kind} picture is mostly bright, and {kind} ControlNets were trained with bright lines on black: "
            "invert the picture if its lines are dark"
        )
    return None
