"""Turns every exception into problem details: ours, the framework's, the store's, Kafka's, and unforeseen ones."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.gateway.openai.errors import response_to
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.gateway.routes.http_rules import methods_at
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.outages import KAFKA, STORE
from darkroom.producer.outcomes.outcomes import OutcomeUnreadable
from darkroom.producer.store.objects import ObjectsError, StoreUnavailable
from darkroom.schemas.errors import bounded
from darkroom.schemas.faults import said

log = structlog.get_logger(__name__)

_ERRORS_SHOWN_MAX: Final = 3
_METHODS_COUNTED: Final = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})
"""Methods with a label of their own: a caller may send any text as its method."""
_NOT_FOUND: Final = "There is nothing at this path."
_SEE_DOCS: Final = "/docs lists what there is."


def handle_errors(app: FastAPI, metrics: Metrics, retry_after_s: int) -> None:
    """Make an application answer with problems alone. `Guard` answers the exceptions that have no handler."""

    def answering(problem_of: Callable[[Exception, Request], Problem]) -> Callable[[Request, Exception], Response]:
        def handle(call: Request, error: Exception) -> Response:
            problem = problem_of(error, call)
            metrics.refused.labels(problem.code).inc()
            return response_to(problem, call.scope["path"])

        return handle

    def away(error: Exception, _call: Request) -> Problem:
        is_kafka = isinstance(error, KafkaUnavailable)
        if is_kafka:
            KAFKA.failed("calls", error, answers=False)
        elif isinstance(error, StoreUnavailable):
            STORE.failed("calls", error, answers=False)
        else:
            log.warning("a call was refused", reason=str(error))
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "kafka_away" if is_kafka else "store_away",
            f"{'Kafka' if is_kafka else 'The object store'} is not available at the moment.",
            "Make the same request again in a few seconds, under the same id or Idempotency-Key.",
            headers={"Retry-After": str(retry_after_s)},
        )

    app.add_exception_handler(Problem, answering(_itself))
    app.add_exception_handler(HTTPException, answering(_of_http))
    app.add_exception_handler(RequestValidationError, answering(_of_validation))
    for kind in (KafkaUnavailable, ObjectsError, OutcomeUnreadable):
        app.add_exception_handler(kind, answering(away))


def _itself(error: Exception, _call: Request) -> Problem:
    assert isinstance(error, Problem)
    return error


def _of_http(error: Exception, call: Request) -> Problem:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    path = call.scope["path"]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        is_preflight = call.method == "OPTIONS" and "access-control-request-method" in call.headers
        return Problem(
            status,
            "method_not_allowed",
            "This path does not accept this method.",
            "For pages of other origins to call, add their origin to DARKROOM_ACCESS__ALLOWED_ORIGINS."
            if is_preflight
            else "The header Allow lists the methods that it accepts.",
            headers={"Allow": ", ".join(methods_at(call, path))},
        )
    if status is HTTPStatus.NOT_FOUND:
        has_slash = path.endswith("/") and methods_at(call, path.rstrip("/"))
        remedy = "Leave out the slash at the end of the path." if has_slash else _SEE_DOCS
        return Problem(status, "no_such_path", _NOT_FOUND, remedy)
    return Problem(status, "refused", bounded(str(error.detail)), _SEE_DOCS, headers=error.headers)


def _of_validation(error: Exception, _call: Request) -> Problem:
    """Return the problem of a path, query or header parameter. The given value is not repeated.

    FastAPI validates no bodies here: the codec decodes them.
    """
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(str(step) for step in one['loc'])}: {said(one)}" for one in error.errors()]
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_parameter",
        bounded("; ".join(found[:_ERRORS_SHOWN_MAX])),
        "Correct what is named; /openapi.json has the schema.",
    )


class Guard:
    """ASGI middleware that counts and times every call, and lets no exception out to the caller or the server.

    Calls are counted by the route's template. Paths without a route are counted together.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        has_started = False

        async def send_counted(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                self._count(scope, message["status"], time.monotonic() - started)
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        except Exception as error:
            incident = secrets.token_hex(6)
            log.exception("a call failed", incident=incident, method=scope["method"], error=type(error).__name__)
            if not has_started:
                problem = Problem(
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                    "internal_error",
                    "The gateway failed unexpectedly.",
                    f"Try again, and report the incident {incident} if it happens again.",
                    incident=incident,
                )
                await response_to(problem, scope["path"])(scope, receive, send_counted)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS_COUNTED else "other"
        self._metrics.calls.labels(method, route, status).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)
