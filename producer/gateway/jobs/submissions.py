"""Reads a posted JSON body or form as a request of the caller's tenant, with the worker's own decoder.

A request that passes here passes at the worker, and one that is refused is refused in the same words. Only unknown
fields, which a worker accepts with a warning, are refused here, because the caller is there to hear of them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from starlette.requests import Request

from darkroom.producer.callbacks.addresses import Addressees, AddressRefused
from darkroom.producer.gateway.jobs.forms import (
    MULTIPART,
    REQUEST,
    URLENCODED,
    read_multipart,
    read_pairs,
    text_too_large,
    to_its_end,
    value_of,
)
from darkroom.producer.gateway.jobs.uploads import Picture, Uploads
from darkroom.producer.gateway.principal import Principal
from darkroom.producer.gateway.problems import Problem, coded, invalid
from darkroom.schemas.errors import ErrorCode, RequestRejected, bounded
from darkroom.schemas.events.pose import NOBODY_IN_PICTURE, KeypointPose, StoredPicture
from darkroom.schemas.events.request import GenerationRequest, pictures_of
from darkroom.schemas.events.samplers import in_our_names
from darkroom.schemas.events.unsupported import UnknownField, refusal_of
from darkroom.schemas.names import is_identity, upload_key
from darkroom.schemas.recipes import Recipes
from darkroom.schemas.settings import Settings
from darkroom.schemas.wire.codec import decode_document
from darkroom.schemas.wire.json import read_json

CALLBACK_URL: Final = "callback_url"
"""The member of a posted request that is the gateway's, and no part of the event."""
_KEY: Final = re.compile(r"[\x21-\x7e]{1,255}")
"""An Idempotency-Key: visible ASCII."""
_UPLOADS: Final = {
    "pose": ("pose", "image"),
    "photo": ("pose", "photo"),
    "init": ("init", "image"),
    "mask": ("mask", "image"),
}
"""A form's file fields: the request's field that each belongs to, and the member of it that it becomes."""
_BESIDE_INIT: Final = ("strength", "fit")
"""Members of `init` that a form may have as fields of its own beside the file."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A valid request."""

    request: GenerationRequest
    digest: str
    uploads: Mapping[str, Picture]
    """The pictures to store under the keys in the request, by the request's field."""
    is_named: bool
    """Whether the caller gave the job an id or a key, by which it can come back to it."""
    callback_url: str | None = None
    """Where the completion is to be posted to."""


class Submissions:
    """Reads submissions for one deployment. Methods raise `Problem` for invalid ones."""

    def __init__(
        self,
        settings: Settings,
        uploads: Uploads,
        recipes: Recipes,
        *,
        bucket: str,
        prefix: str,
        receivers: Collection[str],
    ) -> None:
        """`receivers` are the tenants that may have callbacks."""
        # A gateway without a file of recipes leaves it to the workers to know them.
        self._recipes = recipes if settings.model.recipes_file is not None else None
        self._limits = settings.limits
        self._gateway = settings.gateway
        self._may_read = settings.s3.may_read
        self._uploads = uploads
        self._bucket = bucket
        self._prefix = prefix
        self._receivers = receivers
        self._addressees = Addressees(settings.hooks.allowed_networks)

    async def read(self, call: Request, principal: Principal) -> Submission:
        """Return the submission posted to /v1/generations."""
        document, files = await self.posted(call)
        return await self.submission(call, principal, document, files)

    async def content(self, call: Request, bytes_max: int) -> bytes:
        """Return a whole body of any type. Raises `Problem` 413 above `bytes_max` bytes."""
        content = bytearray()
        async with to_its_end():
            async for chunk in call.stream():
                content += chunk
                if len(content) > bytes_max:
                    raise text_too_large(bytes_max)
        return bytes(content)

    @property
    def uploads(self) -> Uploads:
        """Return what checks uploaded pictures."""
        return self._uploads

    async def read_loosely(self, call: Request, principal: Principal) -> Submission:
        """Return the submission posted to /generate, whose fields may also stand in the query."""
        has_body = _content_type(call) or call.headers.get("content-length", "0") != "0"
        document, files = await self.posted(call) if has_body else ({}, {})
        asked = {name: value_of(name, text) for name, text in read_pairs(call.scope["query_string"]).items()}
        return await self.submission(call, principal, in_our_names({**asked, **document}), files)

    # --- Bodies ------------------------------------------------------------------------------------------

    async def posted(self, call: Request) -> tuple[dict[str, Any], Mapping[str, bytes]]:
        """Return the request in a body, and the files beside it."""
        if call.headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise Problem(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "content_encoding_unknown",
                "The body is compressed, and compressed bodies are not accepted.",
                "Send it uncompressed, without Content-Encoding.",
                headers={"Accept-Encoding": "identity"},
            )
        kind = _content_type(call)
        files: Mapping[str, bytes] = {}
        if kind == MULTIPART:
            fields, files = await read_multipart(
                call, file_bytes_max=self._uploads.bytes_max, text_bytes_max=self._limits.request_bytes_max
            )
        elif kind == URLENCODED:
            content = await self.content(call, self._limits.request_bytes_max)
            if content.lstrip().startswith(b"{"):
                raise _wrong_type("The body is JSON, but its Content-Type is that of a form.")
            fields = read_pairs(content)
        elif kind in ("application/json", "text/json", "") or kind.endswith("+json"):
            return _object(await self.content(call, self._limits.request_bytes_max)), files
        else:
            raise _wrong_type("The body is neither JSON nor a form.")
        if REQUEST not in fields:
            return in_our_names({name: value_of(name, text) for name, text in fields.items()}), files
        text = fields.pop(REQUEST)
        if fields:
            _refuse_unsupported(fields)
            raise invalid(
                f"A form with the field `request`, the JSON, cannot have the field {bounded(min(fields), 60)} besides."
            )
        return _object(text.encode()), files

    # --- Requests ----------------------------------------------------------------------------------------

    async def submission(
        self, call: Request, principal: Principal, document: dict[str, Any], files: Mapping[str, bytes]
    ) -> Submission:
        """Return the submission that a document and the files beside it are. The document is the method's own."""
        for name, default in (("tenant", principal.tenant), ("progress", self._gateway.progress)):
            if document.get(name) is None:  # null counts as absent in every field with a default
                document[name] = default
        if document["tenant"] != principal.tenant:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "tenant_forbidden",
                "The request names a tenant other than the key's.",
                "Leave `tenant` out: it is the key's.",
            )
        document.setdefault("request_id", None)
        is_named = document["request_id"] is not None or "idempotency-key" in call.headers
        if document["request_id"] is None:
            document["request_id"] = _new_id(call, principal.tenant)
        elif "idempotency-key" in call.headers:
            raise invalid("Give either `request_id` or the header Idempotency-Key: each identifies the job.")
        callback_url = self._callback(document.pop(CALLBACK_URL, None), principal)
        uploads = await self._uploaded(document, files)
        request, digest = self._decoded(document)
        self._refuse_beyond_limits(request if self._recipes is None else self._filled(request, self._recipes))
        return Submission(request, digest, uploads, is_named, callback_url)

    def _callback(self, url: Any, principal: Principal) -> str | None:
        """Return the URL of a callback. Raises `Problem` for one that could not be delivered, or not be signed."""
        if url is None:
            return None
        if principal.tenant not in self._receivers:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "callback_unavailable",
                "The request has a callback_url, and this tenant has no secret to sign callbacks with.",
                "Leave callback_url out and follow the job, or have the operator add you to DARKROOM_HOOKS__FILE.",
            )
        try:
            self._addressees.check(url)
        except AddressRefused as refused:
            raise invalid(f"callback_url: {refused}", "Name a URL that can be reached from everywhere.") from refused
        return str(url)

    async def _uploaded(self, document: dict[str, Any], files: Mapping[str, bytes]) -> dict[str, Picture]:
        """Return the uploaded pictures, checked, by the document's field, and point the document at them."""
        _refuse_unsupported(dict.fromkeys(files.keys() - _UPLOADS.keys(), True))
        if not files.keys() <= _UPLOADS.keys() or {"pose", "photo"} <= files.keys():
            raise invalid(
                "A form's files are `pose` (a skeleton picture) or `photo`, and `init` (a picture to start from)."
            )
        uploads = {}
        for name, content in files.items():
            field, member = _UPLOADS[name]
            others = document.get(field) or {}
            if not isinstance(others, dict) or (field == "pose" and others) or member in others:
                raise invalid(f"The request has both {field} and an uploaded file for it: leave one of them out.")
            picture = uploads[field] = await self._uploads.check(content)
            if not is_identity(document["request_id"]):
                return {}  # the decoder refuses the id in its own words
            tenant, request_id = document["tenant"], document["request_id"]
            key = upload_key(field, tenant, request_id, picture.extension, prefix=self._prefix)
            document[field] = {**others, member: {"bucket": self._bucket, "key": key}}
        if "init" in files:
            beside = {name: document.pop(name) for name in _BESIDE_INIT if name in document}
            document["init"] = {**beside, **document["init"]}
        return uploads

    def _decoded(self, document: dict[str, Any]) -> tuple[GenerationRequest, str]:
        try:
            # Envelopes are not unwrapped: the key's tenant was compared with this object's, not with an inner one.
            decoded = decode_document(document)
        except RequestRejected as error:
            if error.code is ErrorCode.UNSUPPORTED_FIELD:
                raise _unsupported(error.message) from error
            raise invalid(error.message) from error
        if decoded.unknown_fields:
            raise invalid(f"unknown fields: {', '.join(decoded.unknown_fields)}")
        return decoded.request, decoded.digest

    def _filled(self, request: GenerationRequest, recipes: Recipes) -> GenerationRequest:
        try:
            return recipes.filled(request)
        except RequestRejected as error:
            raise invalid(error.message) from error

    def _refuse_beyond_limits(self, request: GenerationRequest) -> None:
        """Raise `Problem` for a request beyond the deployment's limits, which a worker would refuse, too."""
        limits = self._limits
        width, height = request.width or limits.min_side, request.height or limits.min_side
        if not (limits.min_side <= width <= limits.max_width and limits.min_side <= height <= limits.max_height):
            bounds = f"{limits.min_side} to {limits.max_width} x {limits.max_height}"
            raise invalid(f"width and height must be {bounds} pixels here")
        if width * height > limits.max_pixels:
            raise invalid(f"width x height must be at most {limits.max_pixels} pixels here")
        if request.count > limits.max_count:
            raise invalid(f"count must be at most {limits.max_count} here")
        if request.steps is not None and request.steps > limits.max_steps:
            raise invalid(f"steps must be at most {limits.max_steps} here")
        if isinstance(request.pose, KeypointPose) and not request.pose.figures(request.width, request.height):
            raise coded(HTTPStatus.UNPROCESSABLE_ENTITY, ErrorCode.POSE_NOT_FOUND, NOBODY_IN_PICTURE)
        for field, picture in pictures_of(request).items():
            if isinstance(picture, StoredPicture):
                self._refuse_forbidden(field, picture, request.tenant)

    def _refuse_forbidden(self, field: str, picture: StoredPicture, tenant: str) -> None:
        """Raise `Problem` 403 for another tenant's object in the deployment's bucket, and for a bucket not allowed."""
        is_theirs = picture.bucket != self._bucket or picture.key.startswith(f"{self._prefix}{tenant}/")
        if not (is_theirs and self._may_read(picture.bucket)):
            raise Problem(
                HTTPStatus.FORBIDDEN,
                ErrorCode.POSE_FORBIDDEN.value,
                f"The request's {field} names a picture that this tenant may not read.",
                "Upload the picture with the request, or put it in an allowed bucket.",
            )


def _content_type(call: Request) -> str:
    return call.headers.get("content-type", "").partition(";")[0].strip().lower()


def _object(text: bytes) -> dict[str, Any]:
    document = read_json(text)
    if document.flaw is not None:
        raise invalid(f"The body {document.flaw}.")
    if not isinstance(document.value, dict):
        raise invalid("The body is not a JSON object.")
    return document.value


def _new_id(call: Request, tenant: str) -> str:
    """Return a new id, or the one that a tenant's Idempotency-Key always stands for."""
    key = call.headers.get("idempotency-key")
    if key is None:
        return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(8)}"
    if not _KEY.fullmatch(key):
        raise invalid("The header Idempotency-Key must be 1-255 visible ASCII characters.")
    return f"key-{hashlib.sha256(f'{tenant}/{key}'.encode()).hexdigest()[:40]}"


def _refuse_unsupported(members: Mapping[str, Any]) -> None:
    """Raise `Problem` for fields and files of a form that would change the picture. The decoder checks its JSON."""
    fields = GenerationRequest.model_fields
    unknown = [UnknownField((name,), value) for name, value in members.items() if name not in fields]
    found = refusal_of(GenerationRequest, unknown)
    if found is not None:
        raise _unsupported(found)


def _unsupported(detail: str) -> Problem:
    return coded(HTTPStatus.UNPROCESSABLE_ENTITY, ErrorCode.UNSUPPORTED_FIELD, detail)


def _wrong_type(detail: str) -> Problem:
    return Problem(
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        "content_type_unknown",
        detail,
        "Send the request as application/json, or as a form together with a picture.",
    )
