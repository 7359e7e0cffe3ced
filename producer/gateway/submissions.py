"""Reads what callers post, JSON or multipart, as a request of their tenant. Decoding is the worker's own.

What passes here passes at the worker, and what is refused is refused with the same words; only unknown fields, of
which a worker warns, are refused here: a caller is there to be told.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from producer.gateway.principal import Principal
from producer.gateway.problems import Problem
from producer.gateway.uploads import Picture, Uploads, too_many_bytes
from schemas.codec import decode_request
from schemas.errors import ErrorCode, RequestRejected, bounded
from schemas.names import is_identity, pose_key
from schemas.pose import PhotoPose, SkeletonPose, StoredPicture
from schemas.request import GenerationRequest
from schemas.settings import Settings
from schemas.strictjson import read_json

FIELDS_MAX: Final = 40
"""Fields of a form: a request has fewer."""
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
"""An Idempotency-Key: visible ASCII."""
_UPLOADS: Final = {"pose": "image", "photo": "photo"}
"""The form's file fields, and the kind of pose that each is."""
_TEXTS: Final = frozenset({"request_id", "tenant", "prompt", "negative_prompt", "preset", "sampler", "progress"})
"""Fields of /generate that are text as they are; the others are read as JSON where they are some."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A request that may be accepted."""

    request: GenerationRequest
    digest: str
    upload: Picture | None
    """To be stored under the key that the request's pose names."""


class Submissions:
    """Reads them for one deployment. All that is wrong with one is raised as `Problem`."""

    def __init__(self, settings: Settings, uploads: Uploads, bucket: str, prefix: str) -> None:
        self._limits = settings.limits
        self._gateway = settings.gateway
        self._may_read = settings.s3.may_read
        self._uploads = uploads
        self._bucket = bucket
        self._prefix = prefix

    async def read(self, call: Request, principal: Principal) -> Submission:
        """What was posted to /v1/generations."""
        if _content_type(call) == "multipart/form-data":
            fields, files = await self._form(call)
            text = fields.pop("request", None)
            if text is None or fields:
                named = "a field `request`" if text is None else f"no field {bounded(min(fields), 60)}"
                raise _invalid(f"A form has {named}: `request` is the JSON, `pose` or `photo` a file.")
            return await self._submission(call, principal, _object(text.encode()), files)
        return await self._submission(call, principal, _object(await self._json(call)), {})

    async def read_loosely(self, call: Request, principal: Principal) -> Submission:
        """What was posted to /generate: JSON, or fields of a form or of the query, one each."""
        files: Mapping[str, bytes] = {}
        if _content_type(call) == "multipart/form-data":
            fields, files = await self._form(call)
            document = {name: _value_of(name, text) for name, text in fields.items()}
        elif _content_type(call) or call.headers.get("content-length", "0") != "0":
            document = _object(await self._json(call))
        else:
            document = {}
        asked = {name: _value_of(name, text) for name, text in call.query_params.items()}
        return await self._submission(call, principal, {**asked, **document}, files)

    # --- Bodies ------------------------------------------------------------------------------------------

    async def _json(self, call: Request) -> bytes:
        if _content_type(call) not in ("application/json", ""):
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "content_type_unknown",
                "The body is neither application/json nor multipart/form-data.",
                "Send the request as JSON, or as a form where a picture goes with it.",
            )
        content = bytearray()
        async with _to_its_end():
            async for chunk in call.stream():
                content += chunk
                if len(content) > self._limits.request_bytes_max:
                    raise too_many_bytes(self._limits.request_bytes_max)
        return bytes(content)

    async def _form(self, call: Request) -> tuple[dict[str, str], dict[str, bytes]]:
        """The fields and the files of a form, one of each name."""
        bytes_max = self._uploads.bytes_max
        bounded_call = Request(call.scope, _bounded(call.receive, bytes_max + self._limits.request_bytes_max))
        fields: dict[str, str] = {}
        files: dict[str, bytes] = {}
        try:
            async with (
                _to_its_end(),
                bounded_call.form(
                    max_files=2, max_fields=FIELDS_MAX, max_part_size=self._limits.request_bytes_max
                ) as form,
            ):
                for name, value in form.multi_items():
                    if name in fields or name in files:
                        raise _invalid(f"The form has {bounded(name, 60)} more than once.")
                    if isinstance(value, UploadFile):
                        files[name] = await value.read(bytes_max + 1)
                    else:
                        fields[name] = value
        except HTTPException as error:  # what starlette makes of a form that it cannot read
            raise _invalid(f"The form cannot be read: {bounded(str(error.detail), 200)}") from error
        return fields, files

    # --- Requests ----------------------------------------------------------------------------------------

    async def _submission(
        self, call: Request, principal: Principal, document: dict[str, Any], files: Mapping[str, bytes]
    ) -> Submission:
        tenant = document.setdefault("tenant", principal.tenant)
        if tenant != principal.tenant:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "tenant_forbidden",
                "The request names another tenant than the key's.",
                "Leave `tenant` out: it is that of the key.",
            )
        document.setdefault("request_id", None)
        if document["request_id"] is None:
            document["request_id"] = _new_id(call, principal.tenant)
        elif "idempotency-key" in call.headers:
            raise _invalid("A request has `request_id` or the header Idempotency-Key, not both: each names the job.")
        document.setdefault("progress", self._gateway.progress)
        upload = await self._upload(document, files)
        request, digest = self._decoded(document)
        self._refuse_beyond_limits(request)
        return Submission(request, digest, upload)

    async def _upload(self, document: dict[str, Any], files: Mapping[str, bytes]) -> Picture | None:
        """The uploaded picture, checked, and named by the document's pose."""
        if not files:
            return None
        name = next(iter(files))
        if len(files) > 1 or name not in _UPLOADS:
            raise _invalid("A form has one file: `pose` (a skeleton picture) or `photo`.")
        if document.get("pose") is not None:
            raise _invalid("The request has a pose beside the uploaded file: leave one of them out.")
        picture = await self._uploads.check(files[name])
        if not is_identity(document["request_id"]):
            return None  # the decoder says so in its own words
        key = pose_key(document["tenant"], document["request_id"], picture.extension, prefix=self._prefix)
        document["pose"] = {_UPLOADS[name]: {"bucket": self._bucket, "key": key}}
        return picture

    def _decoded(self, document: dict[str, Any]) -> tuple[GenerationRequest, str]:
        bytes_max = self._limits.request_bytes_max
        try:
            # Surrogates that belong to no pair are kept as they are, for the decoder to refuse.
            decoded = decode_request(json.dumps(document, separators=(",", ":")).encode(), max_bytes=6 * bytes_max)
        except RequestRejected as error:
            raise _invalid(error.message) from error
        if decoded.unknown_fields:
            raise _invalid(f"unknown fields: {', '.join(decoded.unknown_fields)}")
        return decoded.request, decoded.digest

    def _refuse_beyond_limits(self, request: GenerationRequest) -> None:
        """What the deployment's bounds and rules refuse, as a worker would in the end."""
        limits = self._limits
        width, height = request.width or limits.min_side, request.height or limits.min_side
        if not (limits.min_side <= width <= limits.max_width and limits.min_side <= height <= limits.max_height):
            bounds = f"{limits.min_side} to {limits.max_width} x {limits.max_height}"
            raise _invalid(f"width and height are {bounds} pixels here")
        if width * height > limits.max_pixels:
            raise _invalid(f"width x height is at most {limits.max_pixels} pixels here")
        if request.count > limits.max_count:
            raise _invalid(f"count is at most {limits.max_count} here")
        if request.steps is not None and request.steps > limits.max_steps:
            raise _invalid(f"steps is at most {limits.max_steps} here")
        if isinstance(request.pose, SkeletonPose | PhotoPose):
            picture = request.pose.image if isinstance(request.pose, SkeletonPose) else request.pose.photo
            if isinstance(picture, StoredPicture):
                self._refuse_what_is_not_theirs(picture, request.tenant)

    def _refuse_what_is_not_theirs(self, picture: StoredPicture, tenant: str) -> None:
        """In the deployment's own bucket a tenant reads what is its own; other allowed buckets are for everyone."""
        is_theirs = picture.bucket != self._bucket or picture.key.startswith(f"{self._prefix}{tenant}/")
        if not (is_theirs and self._may_read(picture.bucket)):
            raise Problem(
                HTTPStatus.FORBIDDEN,
                ErrorCode.POSE_FORBIDDEN.value,
                "The pose names a picture that this tenant does not read from.",
                "Upload the picture with the request, or put it in an allowed bucket.",
            )


@contextlib.asynccontextmanager
async def _to_its_end() -> AsyncIterator[None]:
    """Raises `Problem` 400 where a body's sender hangs up. How long it may take is access control's affair."""
    try:
        yield
    except ClientDisconnect as error:
        raise Problem(
            HTTPStatus.BAD_REQUEST, "body_incomplete", "The body stopped before its end.", "Send all of it."
        ) from error


def _bounded(receive: Receive, bytes_max: int) -> Receive:
    """The same body, up to so many bytes: a form may come without saying how long it is."""
    taken = 0

    async def receive_more() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > bytes_max:
            raise too_many_bytes(bytes_max)
        return message

    return receive_more


def _content_type(call: Request) -> str:
    return call.headers.get("content-type", "").partition(";")[0].strip().lower()


def _object(text: bytes) -> dict[str, Any]:
    document = read_json(text)
    if document.flaw is not None:
        raise _invalid(f"The body {document.flaw}.")
    if not isinstance(document.value, dict):
        raise _invalid("The body is no JSON object.")
    return document.value


def _value_of(name: str, text: str) -> Any:
    if name in _TEXTS:
        return text
    document = read_json(text.encode("utf-8", "backslashreplace"))
    return text if document.flaw is not None else document.value


def _new_id(call: Request, tenant: str) -> str:
    """An id that nobody has used; with an Idempotency-Key always the same for the tenant and the key."""
    key = call.headers.get("idempotency-key")
    if key is None:
        return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"
    if not _KEY.fullmatch(key):
        raise _invalid("The header Idempotency-Key is 1-255 visible ASCII characters.")
    return f"key-{hashlib.sha256(f'{tenant}/{key}'.encode()).hexdigest()[:40]}"


def _invalid(detail: str) -> Problem:
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        ErrorCode.INVALID_REQUEST.value,
        detail,
        "Correct what is named; /openapi.json has the schema.",
    )
