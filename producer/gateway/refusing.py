"""Every error as problem details: our own, the framework's, the store's and Kafka's, and those that nobody foresaw."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from http import HTTPStatus

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.gateway.problems import PROBLEM_CONTENT_TYPE, Problem
from darkroom.producer.gateway.routes.methods import methods_at
from darkroom.producer.kafka.connection import KafkaUnavailable
from darkroom.producer.outages import KAFKA, STORE
from darkroom.producer.outcomes.outcomes import OutcomeUnreadable
from darkroom.producer.store.objects import ObjectsError, StoreUnavailable
from darkroom.schemas.errors import bounded

log = structlog.get_logger(__name__)

_ERRORS_SHOWN_MAX = 3
_NOTHING = "There is nothing at this path."
_METHOD = ("This path does not take this method.", "The header Allow names those that it takes.")
_OTHER_ORIGINS = "For pages of other origins to call, have theirs listed in DARKROOM_ACCESS__ALLOWED_ORIGINS."
_HTTP = {404: ("no_such_path", _NOTHING, "See /docs for what there is.")}


def response_of(problem: Problem) -> Response:
    """A problem as an answer that nobody keeps."""
    content = json.dumps(problem.body()).encode()
    headers = {"Cache-Control": "no-store", **problem.headers}
    return Response(content, problem.status, headers, PROBLEM_CONTENT_TYPE)


def handle_errors(app: FastAPI, metrics: Metrics, retry_after_s: int) -> None:
    """Have an application answer with problems alone, but for what nobody foresaw, which `Guard` answers."""

    def problems(problem_of: Callable[[Exception, Request], Problem]) -> Callable[[Request, Exception], Response]:
        def handle(call: Request, error: Exception) -> Response:
            problem = problem_of(error, call)
            metrics.refused.labels(problem.code).inc()
            return response_of(problem)

        return handle

    def away(error: Exception, _call: Request) -> Problem:
        name = "Kafka" if isinstance(error, KafkaUnavailable) else "The object store"
        if isinstance(error, KafkaUnavailable):
            KAFKA.failed("calls", error, answers=False)
        elif isinstance(error, StoreUnavailable):
            STORE.failed("calls", error, answers=False)
        else:
            log.warning("a call was refused", reason=str(error))
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "kafka_away" if isinstance(error, KafkaUnavailable) else "store_away",
            f"{name} does not do its part at the moment.",
            "Make the same request again, under the same id or Idempotency-Key, in some seconds.",
            headers={"Retry-After": str(retry_after_s)},
        )

    app.add_exception_handler(Problem, problems(_itself))
    app.add_exception_handler(HTTPException, problems(_of_http))
    app.add_exception_handler(RequestValidationError, problems(_of_validation))
    for kind in (KafkaUnavailable, ObjectsError, OutcomeUnreadable):
        app.add_exception_handler(kind, problems(away))


def _itself(error: Exception, _call: Request) -> Problem:
    assert isinstance(error, Problem)
    return error


def _of_http(error: Exception, call: Request) -> Problem:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    path = call.scope["path"]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(methods_at(call, path))
        is_preflight = call.method == "OPTIONS" and "access-control-request-method" in call.headers
        told = (_METHOD[0], _OTHER_ORIGINS) if is_preflight else _METHOD
        return Problem(status, "method_not_allowed", *told, headers={"Allow": allowed})
    if status is HTTPStatus.NOT_FOUND and path.endswith("/") and methods_at(call, path.rstrip("/")):
        return Problem(status, "no_such_path", _NOTHING, "Leave out the slash at the end of the path.")
    code, detail, remedy = _HTTP.get(
        error.status_code, ("refused", bounded(str(error.detail)), "See /docs for what there is.")
    )
    return Problem(status, code, detail, remedy, headers=error.headers)


def _of_validation(error: Exception, _call: Request) -> Problem:
    """Of a path, a query or a header: bodies are read by our own decoder. What was given is not repeated."""
    assert isinstance(error, RequestValidationError)
    found = [f"{'.'.join(str(step) for step in one['loc'])}: {one['msg']}" for one in error.errors()]
    return Problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "invalid_parameter",
        bounded("; ".join(found[:_ERRORS_SHOWN_MAX])),
        "Correct what is named; /openapi.json has the schema.",
    )


class Guard:
    """The outermost layer: counts and times every call, and lets no exception out to the caller or the server.

    It is told by `route` which template a call went to; paths that are nobody's are counted together.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI says."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._note(scope, status, time.monotonic() - started)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            incident = secrets.token_hex(6)
            log.exception("a call failed", incident=incident, method=scope["method"], error=type(error).__name__)
            if status == 0:
                problem = Problem(
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                    "internal_error",
                    "Something failed here that nobody foresaw.",
                    f"Try again, and report the incident {incident} if it stays.",
                    incident=incident,
                )
                await response_of(problem)(scope, receive, noting)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.calls.labels(method, route, status).inc()
        self._metrics.seconds.labels(method, route).observe(seconds)


_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})
