"""`POST /generate`: a prompt and a pose go in, and the picture comes out of the same call."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.client.saving import PictureUnusable, fetch
from darkroom.producer.gateway.gateway import Gateway, gateway_of
from darkroom.producer.gateway.jobs.jobs import Job
from darkroom.producer.gateway.openapi import FIELDS_BODY, PROBLEMS
from darkroom.producer.gateway.principal import Scope
from darkroom.producer.gateway.problems import Problem, coded, invalid
from darkroom.producer.gateway.routes.hang_ups import abandon, unless_hung_up
from darkroom.producer.gateway.routes.images import PICTURE_CONTENT, media_type_of, picture_of
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, ImageRef

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
"""Codes of faults of the request: 422."""
_ENDED: Final = frozenset({ErrorCode.REQUEST_ID_CONFLICT, ErrorCode.CANCELLED, ErrorCode.DEADLINE_PASSED})
"""Codes of jobs that ended without a picture although nothing failed: 409. All other codes are our failures: 502."""
_PICTURE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The picture.",
        "content": PICTURE_CONTENT,
        "headers": {
            "X-Request-Id": {"schema": {"type": "string"}, "description": "The job's id."},
            "X-Seed": {"schema": {"type": "integer"}, "description": "The seed of the picture."},
        },
    }
}


@router.post(
    "/generate",
    response_class=Response,
    responses={**_PICTURE, **PROBLEMS},
    openapi_extra=FIELDS_BODY,
    summary="Generate one picture and wait for it",
)
async def generate(call: Request) -> Response:
    """Return the picture's bytes; 504 when it takes too long. The job goes on then, and `status_url` has its state."""
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.SUBMIT)
    submission = await gateway.submissions.read_loosely(call, principal)
    request = submission.request
    if request.count != 1:
        raise invalid(
            "count: this call returns one picture", "Leave `count` out, or submit the request to /v1/generations."
        )
    # The watch begins before the request is sent, so that no quick outcome is missed.
    with gateway.services.hub.watching((request.tenant, request.request_id)) as watch:
        job = await gateway.acceptance.accept(submission, principal, call.headers.get("traceparent"))
        waiting = gateway.jobs.wait(job, watch, gateway.settings.gateway.generate_timeout_s)
        ended = await unless_hung_up(call, waiting)
    if ended is None:
        return abandon(gateway, submission)
    job = ended
    if job.completion is None:
        raise timed_out(gateway, job)
    if job.completion.error is not None:
        raise failed(job.completion)
    picture = picture_of(job, 0)
    content = await content_of(gateway, picture)
    headers = {"X-Request-Id": request.request_id, "X-Seed": str(picture.seed), "Cache-Control": "no-store"}
    return Response(content, media_type=media_type_of(picture), headers=headers)


async def content_of(gateway: Gateway, picture: ImageRef) -> bytes:
    """Return a picture of a job that has just ended. Raises `Problem` 502 where it is not in the store."""
    try:
        return await fetch(gateway.services.store, picture)
    except PictureUnusable as error:
        raise Problem(
            HTTPStatus.BAD_GATEWAY,
            "picture_gone",
            "The picture is not in the store.",
            "Submit it again under a new id.",
        ) from error


def timed_out(gateway: Gateway, job: Job) -> Problem:
    """Return the 504 of a job that is not finished, with where to find it."""
    request_id = job.identity[1]
    return Problem(
        HTTPStatus.GATEWAY_TIMEOUT,
        "not_finished_in_time",
        f"The picture was not finished within {gateway.settings.gateway.generate_timeout_s:g} s. The job goes on.",
        "Poll status_url, or follow events_url.",
        request_id=request_id,
        headers={"X-Request-Id": request_id},
        status_url=gateway.addresses.status(request_id),
        events_url=gateway.addresses.events(request_id),
    )


def failed(completion: Completion) -> Problem:
    """Return the problem of a completion with an error."""
    error = completion.error
    assert error is not None
    if error.code in _CALLERS:
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    else:
        status = HTTPStatus.CONFLICT if error.code in _ENDED else HTTPStatus.BAD_GATEWAY
    return coded(
        status,
        error.code,
        error.message,
        request_id=completion.request_id,
        headers={"X-Request-Id": completion.request_id},
        retryable=error.retryable,
    )
