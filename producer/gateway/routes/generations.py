"""`/v1/generations`, `/v1/recipes`, `/v1/controls`, `/v1/poses`, `/v1/fleet`: submit, look at and cancel jobs."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.gateway import gateway_of
from darkroom.producer.gateway.jobs.answers import (
    Accepted,
    Cancelled,
    ControlList,
    Fleet,
    JobState,
    PoseFound,
    RecipeList,
)
from darkroom.producer.gateway.openapi import ORDER_BODY, PROBLEMS
from darkroom.producer.gateway.principal import Scope
from darkroom.producer.gateway.problems import Problem, invalid
from darkroom.producer.gateway.routes.http_rules import RequestId, answer, reads
from darkroom.producer.poses.documents import PoseJsonRefused
from darkroom.producer.poses.files import read_pose_json, size_of
from darkroom.producer.poses.keypoints import POSE_JSON_BYTES_MAX

router = APIRouter(tags=["jobs"])

_KEYPOINTS: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "A file of keypoints of at most 4 MiB: a request's pose, or JSON of OpenPose, COCO, MMPose, "
        "Ultralytics, rtmlib, TensorFlow.js, MediaPipe or Label Studio.",
        "content": {"application/json": {"schema": {}}},
    }
}


@router.post(
    "/v1/generations",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Accepted,
    responses=PROBLEMS,
    openapi_extra=ORDER_BODY,
    summary="Submit a job",
)
async def submit(
    call: Request,
    idempotency_key: Annotated[  # noqa: ARG001 - read where the id is made
        str | None,
        Header(description="Identifies the job in place of request_id: the same key again is the same job."),
    ] = None,
) -> Response:
    """Accept a request: JSON, or a form whose `request` is that JSON and whose `pose` or `photo` is a picture.

    A form without `request` has the request's own fields, as at /generate; an empty field counts as absent.

    202 says that the job is safe: it will have an outcome whatever happens to this gateway. The same request again,
    under its `request_id` or Idempotency-Key, returns the same job; a different one under them gets 409.
    """
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.SUBMIT)
    submission = await gateway.submissions.read(call, principal)
    job = await gateway.acceptance.accept(submission, principal, call.headers.get("traceparent"))
    request_id = job.identity[1]
    url = gateway.addresses.status(request_id)
    body = {
        "request_id": request_id,
        "status_url": url,
        "events_url": gateway.addresses.events(request_id),
        "status": job.status,
    }
    return answer(body, HTTPStatus.ACCEPTED, {"Location": url})


@reads(router, "/v1/generations/{request_id}", response_model=JobState, responses=PROBLEMS, summary="A job's state")
async def look(
    call: Request,
    request_id: RequestId,
    wait: Annotated[
        float, Query(ge=0, le=86_400, allow_inf_nan=False, description="Seconds to wait for the outcome.")
    ] = 0.0,
) -> Response:
    """Return a job's state. With `wait`, return it once the job has an outcome or the time has passed."""
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.READ)
    job = await gateway.waited_for(principal.tenant, request_id, wait)
    return answer(await gateway.jobs.body(job))


@router.delete(
    "/v1/generations/{request_id}",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Cancelled,
    responses={200: {"model": Cancelled, "description": "It had already ended."}, **PROBLEMS},
    summary="Cancel a job",
)
async def cancel(call: Request, request_id: RequestId) -> Response:
    """Cancel a job: 202, and it ends as cancelled unless it finishes first. 200 for a job that has an outcome."""
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.CANCEL)
    job = await gateway.jobs.found(principal.tenant, request_id)
    body = {"request_id": request_id, "status": job.status}
    if job.completion is not None:
        return answer(body)
    await gateway.services.publisher.cancel(*job.identity, f"cancelled by {principal.name} over HTTP")
    return answer(body, HTTPStatus.ACCEPTED)


@reads(router, "/v1/fleet", response_model=Fleet, responses=PROBLEMS, summary="The state of all workers together")
async def fleet(call: Request) -> Response:
    """Return the workers, the backlog, the rate and the batching of all tenants together, and nothing of any one."""
    gateway = gateway_of(call)
    await gateway.admit(call, Scope.READ)
    hub = gateway.services.hub
    backlog = await gateway.services.queue.backlog()
    per_second, eta_s = hub.recent.per_second(), await gateway.jobs.backlog_s()
    last_work_s = hub.last_work_s
    return answer(
        {
            "workers": backlog.workers,
            "last_work_s": None if last_work_s is None else round(last_work_s, 1),
            "lag_records": backlog.lag_records,
            "eta_s": None if eta_s is None else round(eta_s, 1),
            "completions_per_minute": round(60 * (per_second or 0.0), 1),
            "batch_rows_mean": hub.recent.batch_rows_mean(),
            "queued_ms_p50": hub.recent.queued_ms_p50(),
            "active": hub.active,
        }
    )


@reads(router, "/v1/recipes", response_model=RecipeList, responses=PROBLEMS, summary="The recipes to choose from")
async def recipes(call: Request) -> Response:
    """Return the operator's recipes: what a request's `recipe` may name, and the fields that each fills in."""
    gateway = gateway_of(call)
    await gateway.admit(call, Scope.READ)
    return answer({"recipes": [recipe.as_json() for recipe in gateway.recipes]})


@reads(router, "/v1/controls", response_model=ControlList, responses=PROBLEMS, summary="The controls to choose from")
async def controls(call: Request) -> Response:
    """Return the kinds of control pictures that the deployment's ControlNets follow, as its settings name them."""
    gateway = gateway_of(call)
    await gateway.admit(call, Scope.READ)
    offered = sorted(gateway.controls.items())
    return answer({"controls": [{"kind": kind, "controlnet": name} for kind, name in offered]})


@router.post(
    "/v1/poses",
    response_model=PoseFound,
    responses=PROBLEMS,
    openapi_extra=_KEYPOINTS,
    summary="Read a file of keypoints",
)
async def read(
    call: Request,
    size: Annotated[
        str | None,
        Query(
            max_length=20,
            description="WIDTHxHEIGHT of the picture whose pixels the keypoints count, if the file does not say it.",
        ),
    ] = None,
) -> Response:
    """Read keypoints as `darkroom send --pose` does: return the pose for a request, what was left out, and the size in
    pixels of the picture that the keypoints were found in, null where nothing says it.

    422 says what the file is and how to convert it. Nothing of the file is stored.
    """
    gateway = gateway_of(call)
    await gateway.admit(call, Scope.SUBMIT)
    try:
        pixels = None if size is None else size_of(size)
    except ValueError as error:
        raise invalid(f"size: {error}", "Correct what is named.") from error
    content = await gateway.submissions.content(call, POSE_JSON_BYTES_MAX)
    try:
        found = await asyncio.to_thread(read_pose_json, content, pixels)
    except PoseJsonRefused as refused:
        raise Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "pose_unreadable",
            f"The file {refused.what}",
            refused.remedy,
            needs_size=refused.needs_size,
        ) from refused
    canvas = None if found.canvas is None else {"width": found.canvas[0], "height": found.canvas[1]}
    return answer({"pose": found.pose, "notes": list(found.notes), "canvas": canvas})
