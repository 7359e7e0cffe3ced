"""Requests as people write them: options of the command line, files with one JSON request a line, pose files.

Whatever is read becomes JSON first and then goes through the same decoder as a record from Kafka, so what passes
here passes at the worker, and what is refused is refused with the same words.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from schemas.codec import decode_request
from schemas.errors import RequestRejected
from schemas.pose import INLINE_BYTES_MAX
from schemas.request import GenerationRequest
from schemas.strictjson import read_json

_POSE_FILE_BYTES_MAX: Final = 8 * 1024 * 1024
"""More than this is read of no pose file, to say how large it is."""
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF")
"""How PNG, JPEG and WebP files begin."""


class RequestUnreadable(Exception):  # noqa: N818 - what was found
    """A file or an option that makes no request: where, which field, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file of requests. Either `request` or `problem` is set."""

    place: str
    """`file:number`."""
    request: GenerationRequest | None
    problem: str | None
    unknown_fields: tuple[str, ...] = ()


def new_request_id() -> str:
    """An id that nobody has used: the time of day, for people, and 48 random bits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(6)}"


def lines(name: str, file: BinaryIO, *, bytes_max: int) -> Iterator[Line]:
    """The requests in a file, one JSON object a line; blank lines are passed over.

    A line without `request_id` gets a new one, another each time that the file is read. `bytes_max` bounds a line.
    """
    number = 0
    while raw := file.readline(bytes_max + 2):
        number += 1
        place = f"{name}:{number}"
        if len(raw) > bytes_max and not raw.endswith(b"\n"):
            while raw and not raw.endswith(b"\n"):
                raw = file.readline(bytes_max)
            yield Line(place, None, f"the line has more than {bytes_max} bytes")
        elif raw.strip():
            yield _line(place, raw.strip(), bytes_max)


def request_of(fields: Mapping[str, Any], *, bytes_max: int) -> GenerationRequest:
    """A request of these fields; those that are None are left out. Raises `RequestUnreadable`."""
    document = {name: value for name, value in fields.items() if value is not None}
    try:
        return decode_request(json.dumps(document).encode(), max_bytes=bytes_max).request
    except RequestRejected as error:
        raise RequestUnreadable(error.message) from error


def pose_of(path: Path) -> dict[str, Any]:
    """What a pose file says, as a request's `pose`.

    JSON is either a pose (`{"people": ...}` and the others) or the list of people alone. A PNG, JPEG or WebP picture
    is taken for an OpenPose skeleton and carried inline, up to 512 KiB. Raises `RequestUnreadable`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_POSE_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise RequestUnreadable(
            f"{path} cannot be read ({error.strerror}). Check the path of the pose file."
        ) from error
    if content.startswith(_PICTURES):
        if len(content) > INLINE_BYTES_MAX:
            raise RequestUnreadable(
                f"{path} has more than the {INLINE_BYTES_MAX} bytes that a picture in a request may have. Make it "
                "smaller, or put it in the bucket and name it by bucket and key in a file of requests."
            )
        return {"image": {"inline": base64.b64encode(content).decode()}}
    document = read_json(content)
    if document.flaw is None and isinstance(document.value, list):
        return {"people": document.value}
    if document.flaw is None and isinstance(document.value, dict):
        return document.value
    raise RequestUnreadable(
        f"{path} is neither JSON with keypoints nor a PNG, JPEG or WebP picture. See `darkroom schemas --only request` "
        "for how a pose is written."
    )


def _line(place: str, raw: bytes, bytes_max: int) -> Line:
    document = read_json(raw)
    if document.flaw is None and isinstance(document.value, dict) and "request_id" not in document.value:
        raw = json.dumps({"request_id": new_request_id(), **document.value}).encode()
    try:
        decoded = decode_request(raw, max_bytes=bytes_max)
    except RequestRejected as error:
        return Line(place, None, error.message)
    return Line(place, decoded.request, None, decoded.unknown_fields)
