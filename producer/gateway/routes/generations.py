"""`/v1/generations`, `/v1/recipes`, `/v1/controls`, `/v1/poses`, `/v1/fleet`: submit, look at and cancel jobs."""

from __future__ import annotations

import asyncio
import math
from datetime import datetime
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query
from pydantic import AwareDatetime, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.gateway import gateway_of
from darkroom.producer.gateway.jobs.answers import (
    Accepted,
    Cancelled,
    ControlList,
    Erased,
    Fleet,
    JobList,
    JobState,
    PoseFound,
    RecipeList,
    State,
    listed,
)
from darkroom.producer.gateway.jobs.catalogue import CURSOR_CHARS_MAX, Wanted
from darkroom.producer.gateway.openapi import ORDER_BODY, PROBLEMS
from darkroom.producer.gateway.principal import Scope
from darkroom.producer.gateway.problems import Problem, invalid
from darkroom.producer.gateway.routes.http_rules import RequestId, answer, reads, seconds_preferred
from darkroom.producer.poses.documents import PoseJsonRefused
from darkroom.producer.poses.files import read_pose_json, size_of
from darkroom.producer.poses.keypoints import POSE_JSON_BYTES_MAX
from darkroom.schemas.events.completion import Status
from darkroom.schemas.events.fields import LABEL_KEY_CHARACTERS_MAX, LABEL_VALUE_CHARACTERS_MAX, LABELS_MAX

router = APIRouter(tags=["jobs"])

LISTED_MAX: Final = 200
"""Jobs in a page: about 100 KB."""
_LABEL_CHARS_MAX: Final = LABEL_KEY_CHARACTERS_MAX + 1 + LABEL_VALUE_CHARACTERS_MAX
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
    job = await gateway.acceptance.accept(submission, principal)
    request_id = job.identity[1]
    url = gateway.addresses.status(request_id)
    body = {
        "request_id": request_id,
        "status_url": url,
        "events_url": gateway.addresses.events(request_id),
        "status": job.status,
    }
    return answer(body, HTTPStatus.ACCEPTED, {"Location": url})


@reads(router, "/v1/generations", response_model=JobList, responses=PROBLEMS, summary="The caller's jobs")
async def jobs(
    call: Request,
    *,
    status: Annotated[
        list[State] | None, Query(max_length=6, description="Only jobs in one of these states; repeat it for several.")
    ] = None,
    label: Annotated[
        list[Annotated[str, StringConstraints(pattern=r"^[^=]+=", max_length=_LABEL_CHARS_MAX)]] | None,
        Query(max_length=LABELS_MAX, description="NAME=VALUE: only jobs with this label; several are all required."),
    ] = None,
    since: Annotated[AwareDatetime | None, Query(description="Only jobs from this time on (RFC 3339).")] = None,
    until: Annotated[AwareDatetime | None, Query(description="Only jobs before this time (RFC 3339).")] = None,
    cursor: Annotated[
        str | None, Query(max_length=CURSOR_CHARS_MAX, description="The `next_cursor` of the page before.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=LISTED_MAX, description="Jobs in a page.")] = 50,
) -> Response:
    """Return the jobs of the caller's tenant, newest first, whichever gateway or program submitted them.

    The list holds what Kafka still has, up to 100,000 jobs of all tenants. A job that left the list can still be asked
    for by its id. 503 until the list has been read, which takes some seconds after a gateway's start.
    """
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.READ)
    catalogue = gateway.services.catalogue
    if catalogue.unready is not None:
        raise Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "list_unavailable",
            f"The list of jobs cannot be given at the moment. {catalogue.unready}",
            "Ask again after Retry-After. Jobs can be asked for by their ids meanwhile.",
            headers={"Retry-After": str(gateway.settings.gateway.retry_after_s)},
        )
    wanted = Wanted(
        statuses=frozenset(status) if status else None,
        labels=dict(one.split("=", 1) for one in label or ()),
        since_ms=_ms_of(since),
        until_ms=_ms_of(until),
    )
    page = catalogue.page(principal.tenant, wanted, after=cursor, limit=limit)
    found = [listed(entry, state, gateway.addresses) for entry, state in page.entries]
    return answer({"jobs": found, "next_cursor": page.cursor})


def _ms_of(moment: datetime | None) -> int | None:
    """Return milliseconds since 1970, rounded up: entries count whole ones."""
    return None if moment is None else math.ceil(moment.timestamp() * 1000)


@reads(router, "/v1/generations/{request_id}", response_model=JobState, responses=PROBLEMS, summary="A job's state")
async def look(
    call: Request,
    request_id: RequestId,
    wait: Annotated[
        float | None, Query(ge=0, le=86_400, allow_inf_nan=False, description="Seconds to wait for the outcome.")
    ] = None,
) -> Response:
    """Return a job's state. With `wait`, return it once the job has an outcome or the time has passed.

    The header `Prefer: wait=N` says the same where there is no `wait`.
    """
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.READ)
    preferred = seconds_preferred(call) if wait is None else None
    job = await gateway.waited_for(principal.tenant, request_id, wait or preferred or 0.0)
    applied = {} if preferred is None else {"Preference-Applied": f"wait={preferred:.0f}"}
    return answer(await gateway.jobs.body(job), headers=applied)


@router.delete(
    "/v1/generations/{request_id}",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Cancelled,
    responses={
        200: {"model": Erased | Cancelled, "description": "It was erased, or had already ended."},
        **PROBLEMS,
    },
    summary="Cancel or erase a job",
)
async def cancel(
    call: Request,
    request_id: RequestId,
    erase: Annotated[
        bool, Query(description="Delete the job's pictures, uploads and texts; needs the scope erase.")
    ] = False,
) -> Response:
    """Cancel a job: 202, and it ends as cancelled unless it finishes first. 200 for a job that has an outcome.

    With `erase`, delete what the store has of the job, ended or not, and answer 200. What remains is that the job was
    erased: its id is never painted again. Repeating the call changes nothing. Kafka's topics keep the request and its
    completion until their retention passes.
    """
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.ERASE if erase else Scope.CANCEL)
    job = await gateway.jobs.found(principal.tenant, request_id)
    if erase:
        erased = await gateway.jobs.erase(job, f"{principal.name} over HTTP")
        gateway.services.catalogue.erase(*job.identity)
        if erased.was is None:
            await gateway.quotas.end_job(*job.identity)
        return answer({"request_id": request_id, "status": Status.ERASED.value, "deleted": erased.deleted})
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
