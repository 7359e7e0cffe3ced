"""`POST /generate`: a prompt and a pose go in, and the picture comes out of the same call."""

from __future__ import annotations

from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.gateway import gateway_of
from darkroom.producer.gateway.openapi import FIELDS_BODY, PROBLEMS
from darkroom.producer.gateway.principal import Scope
from darkroom.producer.gateway.problems import invalid
from darkroom.producer.gateway.routes.images import PICTURE_CONTENT, media_type_of
from darkroom.producer.gateway.routes.waiting import abandon, completion_of, content_of

router = APIRouter(tags=["pictures"])

_SCHEMAS: Final = "#/components/schemas/{model}"
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
    completion = await completion_of(call, gateway, submission, principal)
    if completion is None:
        return abandon(gateway, submission)
    picture = completion.images[0]
    content = await content_of(gateway, picture)
    headers = {"X-Request-Id": request.request_id, "X-Seed": str(picture.seed), "Cache-Control": "no-store"}
    return Response(content, media_type=media_type_of(picture), headers=headers)
