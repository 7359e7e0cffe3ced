"""Poses as people have them in files: keypoints as JSON, skeleton pictures, photos.

What is read becomes a request's `pose` as JSON.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Final

from darkroom.producer.client.request_files import RequestUnreadable
from darkroom.producer.poses.documents import PoseJsonRefused
from darkroom.producer.poses.keypoints import FrameRead, PoseRead, document_of, read_frames, read_pose
from darkroom.producer.poses.refusals import refuse_bytes
from darkroom.schemas.events.keypoints import Size
from darkroom.schemas.events.pictures import foreign_format, foreign_remedy
from darkroom.schemas.events.pose import INLINE_BYTES_MAX

_FILE_BYTES_MAX: Final = 8 * 1024 * 1024
"""More than this is read of no pose file, to say how large it is."""
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
"""How PNG, JPEG and WebP files begin."""


def pose_of(path: Path, size: Size | None = None) -> PoseRead:
    """Read a file of keypoints or a skeleton picture as a request's `pose`, and say what was left out.

    JSON is read as `darkroom.producer.poses.keypoints.read_pose` does; `size` is that of the picture which the
    keypoints are pixels of. A PNG, JPEG or WebP picture is taken for an OpenPose skeleton and carried inline, up to 512
    KiB. Raises `RequestUnreadable`.
    """
    content = _content(path)
    if content.startswith(_PICTURES):
        return PoseRead({"image": _inline(path, content)}, ())
    try:
        refuse_bytes(content)
        _refuse_other_formats(path, content)
        return read_pose_json(content, size)
    except PoseJsonRefused as refused:
        raise RequestUnreadable(f"{path} {refused}") from refused


def frames_of(path: Path, size: Size | None = None) -> list[FrameRead]:
    """Read each frame of a file of keypoints as a request's `pose`. Raise `RequestUnreadable`."""
    content = _content(path)
    if content.startswith(_PICTURES):
        raise RequestUnreadable(f"{path} is a picture, which has one frame. Leave --frames out.")
    try:
        refuse_bytes(content)
        _refuse_other_formats(path, content)
        return read_frames(document_of(content), size)
    except PoseJsonRefused as refused:
        raise RequestUnreadable(f"{path} {refused}") from refused


def fitted(path: Path, read: PoseRead, fit: str | None) -> dict[str, Any]:
    """Return the pose with the size of its picture and how it fits the output, where `fit` is given.

    Raise `RequestUnreadable` where nobody knows that size.
    """
    if fit is None or fit == "stretch":
        return read.pose
    if "people" not in read.pose:
        raise RequestUnreadable(f"{path} is a picture, which is stretched to the output's size. Leave --fit out.")
    if read.canvas is None:
        raise RequestUnreadable(
            f"{path} does not say the size of the picture that its keypoints were found in, which --fit needs. Say it: "
            "--pose-size WIDTHxHEIGHT."
        )
    width, height = read.canvas
    return {**read.pose, "canvas": {"width": max(1, round(width)), "height": max(1, round(height))}, "fit": fit}


def read_pose_json(content: bytes, size: Size | None = None) -> PoseRead:
    """Read the bytes of a JSON file as a pose. Raises `PoseJsonRefused`, for what is no sound JSON too."""
    return read_pose(document_of(content), size)


def photo_of(path: Path) -> dict[str, Any]:
    """A photo, carried inline, as a request's `pose`. Raises `RequestUnreadable`."""
    return {"photo": picture_of(path)}


def picture_of(path: Path) -> dict[str, str]:
    """A picture, carried inline, as a request names it. Raises `RequestUnreadable`."""
    content = _content(path)
    _refuse_other_formats(path, content)
    if not content.startswith(_PICTURES):
        raise RequestUnreadable(f"{path} is no PNG, JPEG or WebP picture. Save it as one of them.")
    return _inline(path, content)


def size_of(text: str) -> Size:
    """The size that is written `WIDTHxHEIGHT`. Raises `ValueError`."""
    width, _, height = text.partition("x")
    if not (width.isascii() and height.isascii() and width.isdigit() and height.isdigit()):
        raise ValueError("write width x height in pixels, as 1280x720")
    if not (0 < int(width) <= 100_000 and 0 < int(height) <= 100_000):
        raise ValueError("width and height are 1 to 100000 pixels")
    return int(width), int(height)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise RequestUnreadable(f"{path} cannot be read ({error.strerror}). Check the path of the file.") from error


def _inline(path: Path, content: bytes) -> dict[str, str]:
    if len(content) > INLINE_BYTES_MAX:
        raise RequestUnreadable(
            f"{path} has more than the {INLINE_BYTES_MAX} bytes that a picture in a request may have. Make it "
            "smaller (nothing is looked at beyond some 1,000 pixels), or put it in the bucket and name it by bucket "
            "and key in a file of requests."
        )
    return {"inline": base64.b64encode(content).decode()}


def _refuse_other_formats(path: Path, content: bytes) -> None:
    name = foreign_format(content)
    if name is not None:
        raise RequestUnreadable(f"{path} is {name}, and only PNG, JPEG or WebP is read. {foreign_remedy(name)}")
