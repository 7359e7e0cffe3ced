"""`/v1/generations`: jobs are made, looked at and taken back."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.gateway import gateway_of
from darkroom.producer.gateway.jobs.answers import Accepted, Cancelled, Fleet, JobState
from darkroom.producer.gateway.principal import Scope
from darkroom.producer.gateway.routes.methods import reads
from darkroom.schemas.names import IDENTITY_PATTERN

router = APIRouter(tags=["jobs"])

RequestId = Annotated[str, Path(description="The job's id.", json_schema_extra={"pattern": IDENTITY_PATTERN})]
"""Checked by looking: an id of another form is no job's, and is answered as any other that is not there."""

_REF: Final = "#/components/schemas/"
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": text, "content": {"application/problem+json": {"schema": {"$ref": f"{_REF}ProblemBody"}}}}
    for status, text in (("4XX", "Refused; `code` says why."), ("5XX", "Not possible now; `code` says why."))
}
FORM: Final[dict[str, Any]] = {
    "title": "GenerationForm",
    "type": "object",
    "required": ["request"],
    "additionalProperties": False,
    "properties": {
        "request": {"type": "string", "contentMediaType": "application/json", "description": "A GenerationOrder."},
        "pose": {"type": "string", "format": "binary", "description": "An OpenPose skeleton picture."},
        "photo": {"type": "string", "format": "binary", "description": "A photo, in place of the skeleton."},
    },
}
"""The schema of a form."""
BODIES: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": f"{_REF}GenerationOrder"}},
            "multipart/form-data": {
                "schema": {"$ref": f"{_REF}GenerationForm"},
                "encoding": {
                    "pose": {"contentType": "image/png, image/jpeg, image/webp"},
                    "photo": {"contentType": "image/png, image/jpeg, image/webp"},
                },
            },
        },
    }
}


@router.post(
    "/v1/generations",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Accepted,
    responses=PROBLEMS,
    openapi_extra=BODIES,
    summary="Make a job",
)
async def submit(
    call: Request,
    idempotency_key: Annotated[  # noqa: ARG001 - read where the id is made
        str | None,
        Header(description="Names the job in place of request_id: the same key again is the same job."),
    ] = None,
) -> Response:
    """Accept a request: JSON, or a form whose `request` is that JSON and whose `pose` or `photo` is a picture.

    A form without `request` has the request's fields themselves, as at /generate; what was left empty is not given.

    202 says that the job is safe: it will have an outcome whatever happens to this gateway. The same request again,
    under its `request_id` or Idempotency-Key, is answered with the same job; another one under them with 409.
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
        float, Query(ge=0, le=86_400, allow_inf_nan=False, description="Seconds to wait for the outcome, if need be.")
    ] = 0.0,
) -> Response:
    """The job as far as it is known. With `wait` the answer comes with the outcome, or when the time has passed."""
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.READ)
    job = await gateway.waited_for(principal.tenant, request_id, wait)
    return answer(await gateway.jobs.body(job))


@router.delete(
    "/v1/generations/{request_id}",
    status_code=HTTPStatus.ACCEPTED,
    response_model=Cancelled,
    responses={200: {"model": Cancelled, "description": "It had ended before."}, **PROBLEMS},
    summary="Take a job back",
)
async def cancel(call: Request, request_id: RequestId) -> Response:
    """Cancel a job: 202, and it ends as cancelled unless it ends first. 200 for a job that has an outcome."""
    gateway = gateway_of(call)
    principal = await gateway.admit(call, Scope.CANCEL)
    job = await gateway.jobs.found(principal.tenant, request_id)
    body = {"request_id": request_id, "status": job.status}
    if job.completion is not None:
        return answer(body)
    await gateway.services.outlet.cancel(*job.identity, f"taken back by {principal.name} over HTTP")
    return answer(body, HTTPStatus.ACCEPTED)


@reads(router, "/v1/fleet", response_model=Fleet, responses=PROBLEMS, summary="All workers together")
async def fleet(call: Request) -> Response:
    """What waits, how fast it goes, and in what company: of all tenants, without anything that is anybody's."""
    gateway = gateway_of(call)
    await gateway.admit(call, Scope.READ)
    hub = gateway.services.hub
    lag = (await gateway.services.queue.backlog()).lag_records
    per_second = hub.recent.per_second()
    return answer(
        {
            "lag_records": lag,
            "eta_s": round(lag / per_second, 1) if per_second else None,
            "completions_per_minute": round(60 * (per_second or 0.0), 1),
            "batch_rows_mean": hub.recent.batch_rows_mean(),
            "queued_ms_p50": hub.recent.queued_ms_p50(),
            "active": hub.active,
        }
    )


def answer(body: dict[str, Any], status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None) -> Response:
    """JSON that nobody keeps: it is true now."""
    content = json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "backslashreplace")
    kept = {"Cache-Control": "no-store", **(headers or {})}
    return Response(content, status, kept, "application/json")
