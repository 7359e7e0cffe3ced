"""Jobs of callers that wait for the answer on the open connection, and hang up before it comes.

Nobody could come back to such a job, unless the caller gave it an id or an Idempotency-Key: it is cancelled, so that no
device paints for nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

import structlog
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.gateway import Gateway
from darkroom.producer.gateway.jobs.hub import Identity
from darkroom.producer.gateway.jobs.submissions import Submission
from darkroom.producer.kafka.connection import KafkaUnavailable

log = structlog.get_logger(__name__)

NOBODY_THERE: Final = 499
"""The status in the metrics of a call whose caller hung up, as nginx counts them. Nobody receives it."""

ResultT = TypeVar("ResultT")


async def unless_hung_up(call: Request, waiting: Coroutine[Any, Any, ResultT]) -> ResultT | None:
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
