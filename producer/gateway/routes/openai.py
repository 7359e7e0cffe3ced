"""`/v1/images/...` and `/v1/models`: the Images API of OpenAI, for the clients that teams already have.

A call is a job like any other: its id is in X-Request-Id, its event is in Kafka before it is waited for, and its
pictures are in the store. `openai.orders` says what each field becomes, `openai.errors` how errors are answered.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path
from sse_starlette.event import ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.gateway import Gateway, gateway_of
from darkroom.producer.gateway.jobs.jobs import Job
from darkroom.producer.gateway.jobs.submissions import Submission
from darkroom.producer.gateway.openai.answers import FAULTS, ImagesAnswer, ModelCard, ModelList
from darkroom.producer.gateway.openai.edits import edit_of
from darkroom.producer.gateway.openai.errors import body_of
from darkroom.producer.gateway.openai.orders import Reply, check_model, order_of
from darkroom.producer.gateway.principal import Principal, Scope
from darkroom.producer.gateway.problems import Problem, invalid
from darkroom.producer.gateway.routes.http_rules import answer, reads
from darkroom.producer.gateway.routes.streams import check_room, event, event_stream
from darkroom.producer.gateway.routes.waiting import abandon, completion_of, content_of, failed
from darkroom.schemas.events.completion import Completion, ImageRef

router = APIRouter(tags=["openai"])

_IdempotencyKey = Annotated[str | None, Header(description="Identifies the job: a repetition with it joins the job.")]
_GENERATED: Final = "image_generation"
_EDITED: Final = "image_edit"
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ImagesOrder"}}},
    }
}
_EDIT_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "allOf": [
                        {"$ref": "#/components/schemas/ImagesOrder"},
                        {
                            "type": "object",
                            "required": ["image"],
                            "properties": {
                                "image": {
                                    "type": "string",
                                    "format": "binary",
                                    "description": "The picture to edit: PNG, JPEG or WebP.",
                                },
                                "mask": {
                                    "type": "string",
                                    "format": "binary",
                                    "description": "A picture whose transparent part is painted.",
                                },
                            },
                        },
                    ]
                }
            }
        },
    }
}
_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The pictures; or, for `stream`, the events image_generation.partial_image and "
        "image_generation.completed, which begin with image_edit for an edit.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
        "headers": {"X-Request-Id": {"schema": {"type": "string"}, "description": "The job's id."}},
    }
}


@router.post(
    "/v1/images/generations",
    response_model=ImagesAnswer,
    responses={**_ANSWER, **FAULTS},
    openapi_extra=_BODY,
    summary="Generate pictures as OpenAI's Images API does",
)
async def generate_images(
    call: Request,
    idempotency_key: _IdempotencyKey = None,  # noqa: ARG001 - read where the id is made
) -> Response:
    """Return pictures, or a stream of them. What this API asks for and SDXL has no counterpart of is refused."""
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.SUBMIT)
    document, files = await gateway.submissions.posted(call)
    return await _painted(call, principal, document, files, _GENERATED)


@router.post(
    "/v1/images/edits",
    response_model=ImagesAnswer,
    responses={**_ANSWER, **FAULTS},
    openapi_extra=_EDIT_BODY,
    summary="Edit a picture as OpenAI's Images API does",
)
async def edit_images(
    call: Request,
    idempotency_key: _IdempotencyKey = None,  # noqa: ARG001 - read where the id is made
) -> Response:
    """Return pictures that start from the form's `image`, or a stream of them.

    The transparent part of `mask`, or of the picture itself, is painted and every other pixel stays. Without either all
    of the picture is painted anew, as far as `strength` says (0.6 when left out).
    """
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.SUBMIT)
    document, files = await gateway.submissions.posted(call)
    document, files = await edit_of(document, files, gateway.submissions.uploads, gateway.settings.limits)
    return await _painted(call, principal, document, files, _EDITED)


async def _painted(
    call: Request, principal: Principal, document: dict[str, Any], files: Mapping[str, bytes], events: str
) -> Response:
    """Submit a job and return its pictures, or a stream whose events' types begin with `events`."""
    gateway = gateway_of(call)
    document, reply = order_of(document, gateway.settings.gateway.openai_models)
    if reply.response_format == "url" and not _has_addresses(gateway):
        raise invalid(
            "response_format: this gateway does not know the address at which callers reach it.",
            "Ask for b64_json, or have its operator set DARKROOM_GATEWAY__PUBLIC_URL.",
            param="response_format",
        )
    submission = await gateway.submissions.submission(call, principal, document, files)
    identity = (submission.request.tenant, submission.request.request_id)
    if reply.is_stream:
        check_room(gateway)
        job = await gateway.acceptance.accept(submission, principal)
        response = event_stream(gateway, _events(gateway, job, submission, reply, events))
        response.headers["X-Request-Id"] = identity[1]
        return response
    completion = await completion_of(call, gateway, submission, principal)
    if completion is None:
        return abandon(gateway, submission)
    return answer(await _pictures(gateway, completion, reply), headers={"X-Request-Id": identity[1]})


@reads(router, "/v1/models", response_model=ModelList, responses=FAULTS, summary="The names that `model` may have")
async def models(call: Request) -> Response:
    """Return the names that OpenAI's clients may give as `model`."""
    gateway = gateway_of(call)
    await gateway.admit(call, Scope.READ)
    cards = [ModelCard(id=name) for name in gateway.settings.gateway.openai_models]
    return answer(ModelList(data=cards).model_dump())


@reads(router, "/v1/models/{name}", response_model=ModelCard, responses=FAULTS, summary="One of these names")
async def model(call: Request, name: Annotated[str, Path(max_length=200, description="The model's name.")]) -> Response:
    """Return one of the names, or 404."""
    gateway = gateway_of(call)
    await gateway.admit(call, Scope.READ)
    check_model(name, gateway.settings.gateway.openai_models)
    return answer(ModelCard(id=name).model_dump())


# --- Pictures -------------------------------------------------------------------------------------------


def _has_addresses(gateway: Gateway) -> bool:
    settings = gateway.settings.gateway
    return settings.public_url is not None or settings.images == "redirect"


async def _pictures(gateway: Gateway, completion: Completion, reply: Reply) -> dict[str, Any]:
    images = completion.images
    data = [await _picture(gateway, completion, number, reply) for number in range(len(images))]
    return {"created": _seconds(completion), "data": data, "background": "opaque", **_described(images[0])}


async def _picture(gateway: Gateway, completion: Completion, number: int, reply: Reply) -> dict[str, str]:
    image = completion.images[number]
    if reply.response_format == "b64_json":
        return {"b64_json": await _base64(gateway, image)}
    settings = gateway.settings.gateway
    if settings.images == "redirect":
        # Signed: whoever fetches the address has no key of the gateway's.
        store = gateway.services.store
        return {"url": store.presigned_get(image.key, bucket=image.bucket, valid_s=settings.image_url_s)}
    return {"url": gateway.addresses.image(completion.request_id, number)}


async def _base64(gateway: Gateway, image: ImageRef) -> str:
    content = await content_of(gateway, image)
    return (await asyncio.to_thread(base64.b64encode, content)).decode("ascii")


def _described(image: ImageRef) -> dict[str, str]:
    return {"output_format": image.content_type.partition("/")[2], "size": f"{image.width}x{image.height}"}


def _seconds(completion: Completion) -> int:
    return int(completion.completed_at.timestamp())


# --- Streams --------------------------------------------------------------------------------------------


async def _events(
    gateway: Gateway, job: Job, submission: Submission, reply: Reply, kind: str
) -> AsyncIterator[ServerSentEvent]:
    """Yield the previews that were asked for, then each picture; or one error, which ends the stream.

    Previews are spread evenly: number i of n is the first one after (i + 1) / (n + 1) of the steps.
    """
    jobs, check_s = gateway.jobs, gateway.settings.gateway.waiting_check_s
    sent = 0
    gateway.streams_open += 1
    try:
        with gateway.services.hub.watching(job.identity) as watch:
            # The job may have ended between its acceptance and the beginning of the watch.
            job = await jobs.look_again(job)
            while not gateway.is_closing:
                if job.completion is not None:
                    async for one in _ending(gateway, job.completion, reply, kind):
                        yield one
                    return
                if sent < reply.partial_images and (preview := _preview(job, sent, reply, kind)) is not None:
                    yield event(preview["type"], preview)
                    sent += 1
                changed = await watch.changed(check_s)
                job = jobs.with_news(job, watch) if changed else await jobs.look_again(job)
            yield event("error", body_of(_shutting_down(gateway, job)))
    finally:
        gateway.streams_open -= 1
        if job.completion is None:
            abandon(gateway, submission)


async def _ending(gateway: Gateway, completion: Completion, reply: Reply, kind: str) -> AsyncIterator[ServerSentEvent]:
    if completion.error is not None:
        yield event("error", body_of(failed(completion)))
        return
    for image in completion.images:
        try:
            content = await _base64(gateway, image)
        except Problem as problem:
            yield event("error", body_of(problem))
            return
        yield event(
            f"{kind}.completed",
            {
                "type": f"{kind}.completed",
                "b64_json": content,
                "created_at": _seconds(completion),
                "background": "opaque",
                "quality": reply.quality,
                **_described(image),
            },
        )


def _preview(job: Job, index: int, reply: Reply, kind: str) -> dict[str, Any] | None:
    """Return the partial image of this index, once the job has come far enough for it."""
    progress = job.progress
    if progress is None or progress.preview is None:
        return None
    if progress.steps_done * (reply.partial_images + 1) < progress.steps_total * (index + 1):
        return None
    return {
        "type": f"{kind}.partial_image",
        "b64_json": progress.preview.inline,
        "partial_image_index": index,
        "created_at": int(time.time()),
        "background": "opaque",
        "quality": reply.quality,
        "output_format": "jpeg",
        "size": "auto",
    }


def _shutting_down(gateway: Gateway, job: Job) -> Problem:
    request_id = job.identity[1]
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "shutting_down",
        "This gateway is shutting down. The job goes on.",
        "Poll status_url, or follow events_url.",
        request_id=request_id,
        status_url=gateway.addresses.status(request_id),
        events_url=gateway.addresses.events(request_id),
    )
