"""Calls that are answered with the pictures themselves: they wait for their job on the open connection.

Where the caller hangs up before, nobody could come back to the job, unless it has an id of the caller's or an
Idempotency-Key: it is cancelled, so that no device paints for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, Final, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.client.saving import PictureUnusable, fetch
from darkroom.producer.gateway.gateway import Gateway
from darkroom.producer.gateway.jobs.hub import Identity
from darkroom.producer.gateway.jobs.jobs import Job
from darkroom.producer.gateway.jobs.submissions import Submission
from darkroom.producer.gateway.principal import Principal
from darkroom.producer.gateway.problems import Problem, coded
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.completion import Completion, ImageRef

log = structlog.get_logger(__name__)

NOBODY_THERE: Final = 499
"""The status in the metrics of a call whose caller hung up, as nginx counts them. Nobody receives it."""

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
        ErrorCode.IMAGE_REJECTED,
        ErrorCode.UNKNOWN_ADAPTER,
        ErrorCode.MODEL_MISMATCH,
    }
)
"""Codes of faults of the request: 422."""
_ENDED: Final = frozenset(
    {ErrorCode.REQUEST_ID_CONFLICT, ErrorCode.CANCELLED, ErrorCode.DEADLINE_PASSED, ErrorCode.ERASED}
)
"""Codes of jobs that ended without a picture although nothing failed: 409. All other codes are our failures: 502."""

ResultT = TypeVar("ResultT")


async def completion_of(
    call: Request, gateway: Gateway, submission: Submission, principal: Principal
) -> Completion | None:
    """Accept a submission and return its job's completion, which has pictures; None once the caller has hung up.

    Raises `Problem` for a job that failed, and for one that is not finished in time.
    """
    # The watch begins before the request is sent, so that no quick outcome is missed.
    with gateway.services.hub.watching((submission.request.tenant, submission.request.request_id)) as watch:
        job = await gateway.acceptance.accept(submission, principal)
        waiting = gateway.jobs.wait(job, watch, gateway.settings.gateway.generate_timeout_s)
        ended = await _unless_hung_up(call, waiting)
    if ended is None:
        return None
    if ended.completion is None:
        raise _timed_out(gateway, ended)
    if ended.completion.error is not None:
        raise failed(ended.completion)
    return ended.completion


async def _unless_hung_up(call: Request, waiting: Coroutine[Any, Any, ResultT]) -> ResultT | None:
    """Return what is waited for, or None once the caller has hung up. The call's body must have been read."""
    waited = asyncio.get_running_loop().create_task(waiting)
    leaving = asyncio.get_running_loop().create_task(_left(call))
    try:
        await asyncio.wait({waited, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return waited.result() if waited.done() else None
    finally:
        waited.cancel()
        leaving.cancel()
        await asyncio.gather(waited, leaving, return_exceptions=True)


async def _left(call: Request) -> None:
    while (await call.receive())["type"] != "http.disconnect":
        pass


def abandon(gateway: Gateway, submission: Submission) -> Response:
    """Have the job of a caller that hung up cancelled, unless it can be found again. Return the answer to nobody."""
    # A gateway that shuts down cuts its callers off itself.
    if not (submission.is_named or gateway.is_closing):
        identity = (submission.request.tenant, submission.request.request_id)
        gateway.tasks.spawn(f"cancel {identity[1]}", _cancel(gateway, identity))
    return Response(status_code=NOBODY_THERE)


async def _cancel(gateway: Gateway, identity: Identity) -> None:
    try:
        await gateway.services.publisher.cancel(*identity, "its caller hung up")
    except KafkaUnavailable as error:
        log.warning("a job whose caller hung up is painted all the same", job="/".join(identity), error=str(error))
        return
    gateway.metrics.abandoned.inc()


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


def _timed_out(gateway: Gateway, job: Job) -> Problem:
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
