"""`POST /generate`: the deployment guide's own form. A prompt and a pose go in, the picture comes out."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.client.saving import PictureUnusable, fetch
from darkroom.producer.gateway.gateway import Gateway, gateway_of
from darkroom.producer.gateway.jobs.forms import FILES
from darkroom.producer.gateway.jobs.jobs import Job
from darkroom.producer.gateway.principal import Scope
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.routes.generations import PROBLEMS
from darkroom.producer.gateway.routes.images import PICTURE_CONTENT, media_type_of, picture_of
from darkroom.schemas.describing import described
from darkroom.schemas.errors import ErrorCode, describe
from darkroom.schemas.events.completion import Completion
from darkroom.schemas.events.request import GenerationRequest

router = APIRouter(tags=["pictures"])

_SCHEMAS: Final = "#/components/schemas/{model}"
_CALLERS: Final = frozenset(
    {
        ErrorCode.INVALID_REQUEST,
        ErrorCode.UNSUPPORTED_FIELD,
        ErrorCode.REQUEST_TOO_LARGE,
        ErrorCode.POSE_UNREADABLE,
        ErrorCode.POSE_NOT_FOUND,
        ErrorCode.POSE_FORBIDDEN,
        ErrorCode.IMAGE_TOO_LARGE,
        ErrorCode.PROMPT_REJECTED,
        ErrorCode.UNKNOWN_ADAPTER,
        ErrorCode.MODEL_MISMATCH,
    }
)
"""Codes that say that the request was at fault: 422."""
_ENDED: Final = frozenset({ErrorCode.REQUEST_ID_CONFLICT, ErrorCode.CANCELLED, ErrorCode.DEADLINE_PASSED})
"""Codes that say that it ended otherwise than by a picture, and nobody failed: 409. All others are ours: 502."""


def _form_fields() -> dict[str, dict[str, Any]]:
    """Return the schemas of the form's fields: those of a request, without null, which a form cannot say.

    The tenant is the key's, and the answer is one picture. A pose comes as a file.
    """
    request = described([GenerationRequest], ref_template=_SCHEMAS, nulls_in=[])[GenerationRequest.__name__]
    fields = {name: _not_null(part) for name, part in request["properties"].items() if name not in ("tenant", "count")}
    return {
        **fields,
        "pose": {"type": "string", "format": "binary", "description": "An OpenPose skeleton picture."},
        "photo": {"type": "string", "format": "binary", "description": "A photo, in place of the skeleton."},
    }


def _not_null(part: dict[str, Any]) -> dict[str, Any]:
    if isinstance(part.get("type"), list):
        return {**part, "type": part["type"][0]}
    kinds = [kind for kind in part.get("oneOf", ()) if kind != {"type": "null"}]
    if not kinds:
        return part
    said = {name: value for name, value in part.items() if name != "oneOf"}
    return {**said, **kinds[0]} if len(kinds) == 1 else {**said, "oneOf": kinds}


_FIELDS: Final = _form_fields()
_OBJECTS: Final = {
    name: {"contentType": "application/json"}
    for name, part in _FIELDS.items()
    if part.get("type", "object") == "object"
}
_BODY: Final[dict[str, Any]] = {
    "parameters": [
        {"name": "prompt", "in": "query", "required": False, "schema": _FIELDS["prompt"], "description": "Or a field."}
    ],
    "requestBody": {
        "required": False,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": _FIELDS},
                "encoding": {
                    **_OBJECTS,
                    **{name: {"contentType": "image/png, image/jpeg, image/webp"} for name in FILES},
                },
            },
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "properties": {name: part for name, part in _FIELDS.items() if name not in FILES},
                },
                "encoding": _OBJECTS,
            },
            "application/json": {"schema": {"$ref": "#/components/schemas/GenerationOrder"}},
        },
    },
}
_PICTURE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The picture.",
        "content": PICTURE_CONTENT,
        "headers": {
            "X-Request-Id": {"schema": {"type": "string"}, "description": "The job's id."},
            "X-Seed": {"schema": {"type": "integer"}, "description": "What it was painted from."},
        },
    }
}


@router.post(
    "/generate",
    response_class=Response,
    responses={**_PICTURE, **PROBLEMS},
    openapi_extra=_BODY,
    summary="Paint one picture and wait for it",
)
async def generate(call: Request) -> Response:
    """The picture's bytes. 504 when it takes too long: the job goes on, and the answer has its `status_url`."""
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.SUBMIT)
    submission = await gateway.submissions.read_loosely(call, principal)
    request = submission.request
    if request.count != 1:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            ErrorCode.INVALID_REQUEST.value,
            "count: this call answers with one picture",
            "Leave `count` out, or make a job of it at /v1/generations.",
        )
    # Watched from before it is sent: nothing that comes back quickly is missed.
    with gateway.services.hub.watching((request.tenant, request.request_id)) as watch:
        job = await gateway.acceptance.accept(submission, principal, call.headers.get("traceparent"))
        job = await gateway.jobs.wait(job, watch, gateway.settings.gateway.generate_timeout_s)
    if job.completion is None:
        raise _too_late(gateway, job)
    if job.completion.error is not None:
        raise _failed(job.completion)
    picture = picture_of(job, 0)
    try:
        content = await fetch(gateway.services.store, picture)
    except PictureUnusable as error:
        raise Problem(
            HTTPStatus.BAD_GATEWAY, "picture_gone", "The picture is not in the store.", "Ask for it under a new id."
        ) from error
    headers = {"X-Request-Id": request.request_id, "X-Seed": str(picture.seed), "Cache-Control": "no-store"}
    return Response(content, media_type=media_type_of(picture), headers=headers)


def _too_late(gateway: Gateway, job: Job) -> Problem:
    request_id = job.identity[1]
    return Problem(
        HTTPStatus.GATEWAY_TIMEOUT,
        "not_finished_in_time",
        f"The picture was not finished within {gateway.settings.gateway.generate_timeout_s:g} s. The job goes on.",
        "Ask for its state at status_url, or wait for its events.",
        request_id=request_id,
        headers={"X-Request-Id": request_id},
        status_url=gateway.addresses.status(request_id),
        events_url=gateway.addresses.events(request_id),
    )


def _failed(completion: Completion) -> Problem:
    error = completion.error
    assert error is not None
    if error.code in _CALLERS:
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    else:
        status = HTTPStatus.CONFLICT if error.code in _ENDED else HTTPStatus.BAD_GATEWAY
    return Problem(
        status,
        error.code.value,
        error.message,
        describe(error.code).remedy,
        request_id=completion.request_id,
        headers={"X-Request-Id": completion.request_id},
        retryable=error.retryable,
    )
