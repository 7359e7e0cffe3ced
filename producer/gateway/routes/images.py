"""`/v1/generations/{id}/images/{n}`: a picture, proxied or by redirect to a presigned URL of the store.

Proxying is the default: the bucket can stay private, and its server out of the callers' reach. A redirect spares the
gateway the bytes where callers reach the store (`s3.public_endpoint`).
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from darkroom.producer.client.saving import PictureUnusable, fetch
from darkroom.producer.gateway.gateway import gateway_of
from darkroom.producer.gateway.jobs.jobs import Job
from darkroom.producer.gateway.openapi import PROBLEMS
from darkroom.producer.gateway.principal import Scope
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.routes.http_rules import RequestId, ranged, reads
from darkroom.schemas.errors import ErrorCode, describe
from darkroom.schemas.events.completion import ImageRef, Status
from darkroom.schemas.events.request import COUNT_MAX
from darkroom.schemas.names import CONTENT_TYPES
from darkroom.schemas.settings import Settings

router = APIRouter(tags=["pictures"])

_SAFE_TYPES: Final = frozenset(CONTENT_TYPES.values())
PICTURE_CONTENT: Final[dict[str, Any]] = {
    name: {"schema": {"type": "string", "format": "binary"}} for name in sorted(_SAFE_TYPES)
}
_PICTURE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The picture.",
        "content": PICTURE_CONTENT,
    },
    206: {"description": "The bytes that Range asked for.", "content": PICTURE_CONTENT},
    304: {"description": "Not modified: If-None-Match has its digest."},
    307: {"description": "The picture is at that URL, for a limited time."},
}


def origins_of(settings: Settings) -> list[str]:
    """Return the origins other than the gateway that its page has to be allowed to load pictures from."""
    if settings.gateway.images == "proxy":
        return []
    return [(settings.s3.public_endpoint or settings.s3.endpoint).rstrip("/")]


@reads(
    router,
    "/v1/generations/{request_id}/images/{number}",
    response_class=Response,
    responses={**_PICTURE, **PROBLEMS},
    summary="A picture of a job",
)
async def image(
    call: Request, request_id: RequestId, number: Annotated[int, Path(ge=0, lt=COUNT_MAX, description="From 0.")]
) -> Response:
    """Return a picture. 409 for a job that has none, be it unfinished or failed; 404 for a number beyond the last."""
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.READ)
    picture = picture_of(await gateway.jobs.found(principal.tenant, request_id), number)
    kept = {"ETag": f'"{picture.sha256}"', "Cache-Control": "private, max-age=31536000, immutable"}
    if picture.sha256 in call.headers.get("if-none-match", ""):
        return Response(None, HTTPStatus.NOT_MODIFIED, kept)
    settings = gateway.settings.gateway
    store = gateway.services.store
    if settings.images == "redirect":
        sign = store.presigned_head if call.method == "HEAD" else store.presigned_get
        url = sign(picture.key, bucket=picture.bucket, valid_s=settings.image_url_s)
        # A cached redirect must not outlive the signature.
        return RedirectResponse(url, headers={"Cache-Control": f"private, max-age={settings.image_url_s // 2}"})
    try:
        content = await fetch(store, picture)
    except PictureUnusable as error:
        raise Problem(
            HTTPStatus.GONE,
            "picture_gone",
            "The picture is no longer in the store; its retention may have passed.",
            "Submit the request again under a new id.",
            request_id=request_id,
        ) from error
    return ranged(call, content, media_type_of(picture), kept)


def picture_of(job: Job, number: int) -> ImageRef:
    """Return one picture of a job. Raises `Problem` 409 for a job without pictures, 404 for a number it lacks."""
    if job.completion is not None and job.completion.status is Status.ERASED:
        error = describe(ErrorCode.ERASED)
        raise Problem(HTTPStatus.GONE, "erased", error.sentence, error.remedy, request_id=job.identity[1])
    if job.completion is None or not job.completion.images:
        raise Problem(
            HTTPStatus.CONFLICT,
            "no_pictures",
            f"The job is {job.status} and has no pictures.",
            "Wait until it has succeeded; its state and its events say when."
            if job.completion is None
            else "See its completion for the reason.",
            request_id=job.identity[1],
            job_status=job.status,
        )
    if number >= len(job.completion.images):
        raise Problem(
            HTTPStatus.NOT_FOUND,
            "no_such_picture",
            f"The job has {len(job.completion.images)} pictures, counted from 0.",
            "Ask for a lower number.",
            request_id=job.identity[1],
        )
    return job.completion.images[number]


def media_type_of(picture: ImageRef) -> str:
    """Return the picture's content type if it is one of ours: no completion can make a browser run a picture."""
    return picture.content_type if picture.content_type in _SAFE_TYPES else "application/octet-stream"
