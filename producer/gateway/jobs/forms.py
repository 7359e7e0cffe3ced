"""Reads forms: multipart/form-data, application/x-www-form-urlencoded, and the query.

Empty fields are read as browsers mean them (WHATWG HTML, 4.10.22): a file part with an empty file name and no content
is no file, and an empty text counts as absent. Text has to be in the encoding that the form names, UTF-8 by default: a
guess could change the prompt.
"""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from darkroom.producer.gateway.jobs.uploads import file_too_large
from darkroom.producer.gateway.problems import Problem, body_too_large, invalid
from darkroom.schemas.errors import bounded
from darkroom.schemas.events.fields import text_fields
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.wire.json import read_json

MULTIPART: Final = "multipart/form-data"
URLENCODED: Final = "application/x-www-form-urlencoded"
FIELDS_MAX: Final = 40
"""The most fields, and the most files, of a form: a request has fewer."""
FILES: Final = ("pose", "photo", "init", "mask")
"""The fields that are pictures."""
REQUEST: Final = "request"
"""The field that holds a whole request as JSON."""
_TEXTS: Final = text_fields(GenerationRequest)
"""Fields that are always text. The others are read as JSON if they are valid JSON."""
_CHARSET: Final = "_charset_"
"""The hidden field into which a browser writes the form's encoding (RFC 7578, 4.6)."""
_NUMBER: Final = re.compile(r"-?[0-9]{0,20}\.?[0-9]{1,20}")
"""Numbers that are valid in HTML and not in JSON: `.5` and `007` (WHATWG HTML, 2.3.4.3)."""
_CODECS: Final = frozenset({"utf-8", "ascii", "iso8859-1", "cp1252"})
"""The accepted encodings. Some others of Python's take minutes to decode a MiB."""
_BYTES_AS_TEXT: Final = "iso-8859-1"
"""Maps each byte to a character, so that the bytes can be recovered. Starlette's parser returns text, and falls back to
this encoding silently where the form's own does not fit."""
_NAME_CHARACTERS_MAX: Final = 60


class _Parser(MultiPartParser):
    """Starlette's parser, which also notes the closing boundary: without one the last part is dropped silently."""

    has_ended = False

    def on_end(self) -> None:
        self.has_ended = True


async def read_multipart(
    call: Request, *, file_bytes_max: int, text_bytes_max: int
) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return a form's fields and its files, one of each name. Raises `Problem`."""
    _, options = parse_options_header(call.headers.get("content-type"))
    boundary = options.get(b"boundary", b"").decode("latin-1")
    if not boundary:
        raise invalid("The form's Content-Type has no boundary: let the HTTP client set this header.")
    headers = Headers({"content-type": f'{MULTIPART}; boundary="{boundary}"; charset={_BYTES_AS_TEXT}'})
    receive = _bounded(call.receive, file_bytes_max + text_bytes_max)
    parser = _Parser(
        headers,
        Request(call.scope, receive).stream(),
        max_files=FIELDS_MAX,
        max_fields=FIELDS_MAX,
        max_part_size=text_bytes_max,
    )
    texts: dict[str, bytes] = {}
    files: dict[str, bytes] = {}
    try:
        async with to_its_end():
            form = await parser.parse()
    except MultiPartException as error:
        if "exceeded maximum size" in error.message:
            raise text_too_large(text_bytes_max) from error
        raise invalid(f"The form cannot be read: {bounded(error.message, 200)}") from error
    try:
        if not parser.has_ended:
            raise invalid("The form ends before its closing boundary: send all of it.")
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                _put(texts, name, value.encode(_BYTES_AS_TEXT), files)
            elif _is_text(name, value):
                _put(texts, name, await value.read(text_bytes_max + 1), files)
                if len(texts[name]) > text_bytes_max:
                    raise text_too_large(text_bytes_max)
            elif value.filename or value.size:
                _put(files, name, await value.read(file_bytes_max + 1), texts)
    finally:
        await form.close()
    charset = texts.pop(_CHARSET, b"").strip() or options.get(b"charset", b"utf-8")
    codec = _codec_of(charset.decode("latin-1"))
    return _given({name: _decoded(name, raw, codec) for name, raw in texts.items()}), files


def read_pairs(encoded: bytes) -> dict[str, str]:
    """Return the fields of a urlencoded form or of a query, one of each name. Raises `Problem`."""
    try:
        pairs = parse_qsl(encoded.decode("utf-8"), keep_blank_values=True, max_num_fields=FIELDS_MAX, errors="strict")
    except UnicodeDecodeError as error:
        raise _not_text("The form", "UTF-8") from error
    except ValueError as error:
        raise invalid(f"The form has more than {FIELDS_MAX} fields.") from error
    fields: dict[str, str] = {}
    for name, text in pairs:
        _put(fields, name, text, {})
    charset = fields.pop(_CHARSET, "utf-8")
    if charset.strip().lower() not in ("utf-8", "utf8", ""):
        raise _not_text("The form", "UTF-8")
    return _given(fields)


def value_of(name: str, text: str) -> Any:
    """Return the value of a field's text: text, JSON, or a number as HTML writes it. Raises `Problem`."""
    if name in _TEXTS:
        return text
    document = read_json(text.encode("utf-8", "backslashreplace"))
    if name in FILES and not (document.flaw is None and (document.value is None or isinstance(document.value, dict))):
        raise _file_as_text(name)
    if document.flaw is None:
        return document.value
    stripped = text.strip()
    if _NUMBER.fullmatch(stripped):
        return float(stripped) if "." in stripped else int(stripped)
    return text


@contextlib.asynccontextmanager
async def to_its_end() -> AsyncIterator[None]:
    """Raise `Problem` 400 if the sender of a body hangs up. Access control limits the time that it may take."""
    try:
        yield
    except ClientDisconnect as error:
        raise Problem(
            HTTPStatus.BAD_REQUEST, "body_incomplete", "The body ended too early.", "Send all of it."
        ) from error


def text_too_large(bytes_max: int) -> Problem:
    """Return the 413 of a JSON body, or of one text of a form."""
    return body_too_large(
        "The request, or one text of its form,",
        bytes_max,
        "Shorten its texts. Upload a picture as a file, or name it by bucket and key.",
    )


def _is_text(name: str, part: UploadFile) -> bool:
    """Return whether a part with a file name is text: scripts append JSON to a form as a Blob, which gets a name."""
    kind = (part.content_type or "").partition(";")[0].strip().lower()
    return name not in FILES and (name == REQUEST or kind == "application/json" or kind.startswith("text/"))


def _given(fields: dict[str, str]) -> dict[str, str]:
    """Return the fields that are not empty. An empty prompt stays: the decoder refuses it in its own words."""
    return {name: text for name, text in fields.items() if text or name == "prompt"}


def _put(of_its_kind: dict[str, Any], name: str, value: Any, others: dict[str, Any]) -> None:
    if name in of_its_kind or name in others:
        raise invalid(f"The form has the field {bounded(name, _NAME_CHARACTERS_MAX)} more than once.")
    of_its_kind[name] = value


def _codec_of(charset: str) -> str:
    try:
        codec = codecs.lookup(charset).name
    except (LookupError, ValueError) as error:
        raise _not_text("The form", "a known encoding") from error
    if codec not in _CODECS:
        raise _not_text("The form", f"one of {', '.join(sorted(_CODECS))}")
    return codec


def _decoded(name: str, raw: bytes, codec: str) -> str:
    """Return the text of a field. Raises `Problem` if it is not in the form's encoding."""
    try:
        return raw.decode(codec)
    except ValueError as error:
        if name in FILES:
            raise _file_as_text(name) from error
        raise _not_text(f"The field {bounded(name, _NAME_CHARACTERS_MAX)}", codec) from error


def _not_text(what: str, encoding: str) -> Problem:
    return invalid(
        f"{what} is not in {encoding}.",
        "Send the form in UTF-8: a page does with <meta charset=utf-8> or accept-charset=utf-8.",
    )


def _file_as_text(name: str) -> Problem:
    return invalid(
        f"The field {name} came as text and not as a file.",
        f"Send the form as {MULTIPART} (the enctype of an HTML form), with a file name for the part.",
    )


def _bounded(receive: Receive, bytes_max: int) -> Receive:
    """Return `receive` limited to so many bytes: a form may come without a Content-Length."""
    taken = 0

    async def receive_more() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > bytes_max:
            raise file_too_large(bytes_max)
        return message

    return receive_more
