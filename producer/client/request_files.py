"""Requests as people write them: options of the command line, files with one JSON request a line.

Whatever is read becomes JSON first and then goes through the same decoder as a record from Kafka, so what passes
here passes at the worker, and what is refused is refused with the same words.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, BinaryIO

from darkroom.schemas.errors import RequestRejected
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.wire.codec import decode_request
from darkroom.schemas.wire.json import read_json


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


def is_one_text(file: BinaryIO, *, bytes_max: int) -> bool:
    """Return whether a file is an array or one JSON text over several lines, as `json.dump(..., indent=2)` writes it.

    A file of more than `bytes_max` bytes is not looked at. The file is read from its beginning.
    """
    file.seek(0)
    content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        return False
    document = read_json(content)
    return document.flaw is None and (isinstance(document.value, list) or b"\n" in content.strip())


def request_of(fields: Mapping[str, Any], *, bytes_max: int) -> GenerationRequest:
    """A request of these fields; those that are None are left out. Raises `RequestUnreadable`."""
    document = {name: value for name, value in fields.items() if value is not None}
    try:
        return decode_request(json.dumps(document).encode(), max_bytes=bytes_max).request
    except RequestRejected as error:
        raise RequestUnreadable(error.message) from error


def _line(place: str, raw: bytes, bytes_max: int) -> Line:
    document = read_json(raw)
    if document.flaw is None and isinstance(document.value, dict) and "request_id" not in document.value:
        raw = json.dumps({"request_id": new_request_id(), **document.value}).encode()
    try:
        decoded = decode_request(raw, max_bytes=bytes_max)
    except RequestRejected as error:
        return Line(place, None, error.message)
    return Line(place, decoded.request, None, decoded.unknown_fields)
