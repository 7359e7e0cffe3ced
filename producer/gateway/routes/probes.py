"""`/livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from darkroom.producer.gateway.gateway import gateway_of
from darkroom.producer.gateway.jobs.answers import Probe
from darkroom.producer.gateway.routes.generations import answer
from darkroom.producer.gateway.routes.methods import reads

router = APIRouter(tags=["operation"])


@reads(router, "/livez", response_model=Probe, summary="Whether the process is well")
async def livez() -> Response:
    """It is, if it answers."""
    return answer({"well": True, "reasons": []})


@reads(
    router,
    "/readyz",
    response_model=Probe,
    responses={503: {"model": Probe, "description": "Not at the moment."}},
    summary="Whether calls should be sent here",
)
async def readyz(call: Request) -> Response:
    """Whether Kafka and the store answered lately, and the process is not about to end."""
    reasons = gateway_of(call).unready()
    status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
    return answer({"well": not reasons, "reasons": reasons}, status)


@reads(router, "/metrics", include_in_schema=False)
async def metrics(call: Request) -> Response:
    """For Prometheus."""
    content = await run_in_threadpool(generate_latest, gateway_of(call).metrics.registry)
    return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})
