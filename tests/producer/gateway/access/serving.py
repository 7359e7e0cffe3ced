"""A gateway of three routes behind the whole of access control, in the test's process or behind a real server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from prometheus_client import CollectorRegistry

from darkroom.producer.gateway.access.assembly import access_of
from darkroom.producer.gateway.principal import Scope
from darkroom.producer.gateway.problems import PROBLEM_CONTENT_TYPE, Problem
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import AccessSettings, Settings, load_settings

LOCAL = ("127.0.0.1", 40000)
ELSEWHERE = ("198.51.100.7", 40000)


def settings_with(*, policy_file: Path | None = None, **access: Any) -> Settings:
    """Defaults, but for what is given."""
    fixed = {name: value for name, value in access.items() if name not in AccessSettings.model_fields}
    given = {name: value for name, value in access.items() if name not in fixed}
    settings = load_settings(overrides={"access": given, "policy.file": policy_file}, environ={})
    return settings.model_copy(update={"access": settings.access.model_copy(update=fixed)})


def app_of(settings: Settings, registry: CollectorRegistry | None = None) -> FastAPI:
    """POST, GET and DELETE /jobs want submit, read and cancel; what is posted is judged as a prompt."""
    access = access_of(settings, registry or CollectorRegistry())
    app = FastAPI(middleware=[*access.outside, *access.inside])
    app.include_router(access.sessions)

    async def problem(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return JSONResponse(error.body(), error.status, error.headers, media_type=PROBLEM_CONTENT_TYPE)

    app.add_exception_handler(Problem, problem)

    async def jobs(request: Request) -> dict[str, Any]:
        scope = {"GET": Scope.READ, "POST": Scope.SUBMIT, "DELETE": Scope.CANCEL}[request.method]
        principal = await access.gatekeeper.identify(request, scope)
        await access.quotas.take_call(principal)
        body = await request.body()
        order = GenerationRequest(request_id="r", prompt=body[:2000].decode("latin-1") or "nothing")
        if refused := await access.policy(order):
            raise refused
        return {"tenant": principal.tenant, "name": principal.name, "bytes": len(body)}

    app.add_api_route("/jobs", jobs, methods=["GET", "POST", "DELETE"])
    return app


def calling(app: FastAPI, client: tuple[str, int] = LOCAL, base: str = "http://localhost") -> httpx.AsyncClient:
    """Calls the application without a network."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=client), base_url=base)


@contextlib.asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[int]:
    """The application behind uvicorn; its port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", http="h11"))
        running = asyncio.create_task(server.serve([listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await running


def write_keys(path: Path, *lines: str) -> None:
    """The keys' file, whole."""
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(lines))
    fresh.replace(path)
