"""The gateway as an ASGI application: its parts put together, its routes, and its OpenAPI."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware import Middleware

from darkroom.producer.gateway.access.assembly import AccessControl
from darkroom.producer.gateway.gateway import Gateway
from darkroom.producer.gateway.jobs.acceptance import Acceptance
from darkroom.producer.gateway.jobs.answers import Addresses, ProblemBody
from darkroom.producer.gateway.jobs.claims import Claims
from darkroom.producer.gateway.jobs.finished import Finished
from darkroom.producer.gateway.jobs.jobs import Jobs
from darkroom.producer.gateway.jobs.submissions import Submissions
from darkroom.producer.gateway.jobs.uploads import Uploads
from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.gateway.refusing import Guard, handle_errors
from darkroom.producer.gateway.routes import events, generate, generations, images, poses, probes
from darkroom.producer.gateway.routes.pages import Page, router_of
from darkroom.producer.gateway.services import OpenServices, Services, connected
from darkroom.producer.outages import watch_outages
from darkroom.producer.tasks import TaskSupervisor
from darkroom.schemas.describing import described, or_null, readable
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings

_SCHEMAS = "#/components/schemas/"
_ABOUT = "Jobs in by HTTP, their state and pictures out. Errors are RFC 9457 problem details."


def create_app(
    settings: Settings,
    access: AccessControl,
    metrics: Metrics,
    *,
    open_services: OpenServices = connected,
    make_tasks: Callable[..., TaskSupervisor] = TaskSupervisor,
) -> FastAPI:
    """The application. Its lifespan opens Kafka and the store; it starts, and says 503, where they are away.

    `app.state.gateway` is the open `Gateway`, while it runs. The end of the lifespan closes `access`.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        finished = Finished(access.quotas)
        async with contextlib.AsyncExitStack() as open_:
            open_.push_async_callback(access.close)
            tasks = await open_.enter_async_context(
                make_tasks(
                    on_kept=metrics.task_restarts.labels,
                    on_restart=lambda name: metrics.task_restarts.labels(name).inc(),
                )
            )
            tasks.keep("outages", watch_outages)
            tasks.keep("finished", finished.run, matters="the ends of jobs are not counted, so quotas fill")
            services = await open_.enter_async_context(open_services(settings, finished.note, tasks))
            app.state.gateway = _gateway(settings, services, access, metrics, tasks)
            metrics.watch(services.hub, lambda: app.state.gateway.streams_open)
            yield

    app = FastAPI(
        title="Darkroom",
        version=version("darkroom"),
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        middleware=[*access.outside, Middleware(Guard, metrics=metrics), *access.inside],
    )
    for router in (
        generations.router,
        events.router,
        images.router,
        generate.router,
        poses.router,
        probes.router,
        access.sessions,
    ):
        app.include_router(router)
    app.include_router(router_of(Page()))
    handle_errors(app, metrics, settings.gateway.retry_after_s)
    app.openapi = lambda: _openapi(app, settings.gateway.public_url)  # type: ignore[method-assign] # as FastAPI's manual says to extend it
    return app


def _gateway(
    settings: Settings, services: Services, access: AccessControl, metrics: Metrics, tasks: TaskSupervisor
) -> Gateway:
    limits, own = settings.limits, settings.gateway
    addresses = Addresses(own.public_url)
    claims = Claims(services.store, kept_max=own.claims_kept_max, request_bytes_max=limits.request_bytes_max)
    jobs = Jobs(own, services, claims, addresses, metrics)
    uploads = Uploads(
        bytes_max=limits.pose_picture_bytes_max,
        pixels_max=limits.pose_picture_pixels_max,
        at_a_time=own.uploads_decoding_max,
    )
    return Gateway(
        settings=settings,
        services=services,
        claims=claims,
        jobs=jobs,
        acceptance=Acceptance(services, claims, jobs, quotas=access.quotas, policy=access.policy, metrics=metrics),
        submissions=Submissions(settings, uploads, services.store.bucket, services.store.prefix),
        gatekeeper=access.gatekeeper,
        quotas=access.quotas,
        addresses=addresses,
        metrics=metrics,
        tasks=tasks,
    )


def _openapi(app: FastAPI, public_url: str | None) -> dict[str, Any]:
    """FastAPI's document with the request's own schema: bodies are read by the codec, not by FastAPI."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
            # Without a public address the document's own place is the only one that is known, and the default of
            # OpenAPI, the root of its host, is it unless a proxy puts a prefix before it.
            servers=None if public_url is None else [{"url": public_url.rstrip("/")}],
        )
        parts = described([GenerationRequest], ref_template=f"{_SCHEMAS}{{model}}", nulls_in=[GenerationRequest])
        answers = document.setdefault("components", {}).setdefault("schemas", {})
        answers["ProblemBody"] = ProblemBody.model_json_schema()
        document["components"]["schemas"] = {
            **{name: readable(name, schema) for name, schema in answers.items()},
            **{name: schema for name, schema in parts.items() if name != GenerationRequest.__name__},
            "GenerationForm": generations.FORM,
            "GenerationOrder": _order(parts[GenerationRequest.__name__]),
        }
        app.openapi_schema = document
    return app.openapi_schema


def _order(request: dict[str, Any]) -> dict[str, Any]:
    """The request's schema as a caller writes it: without a tenant, which is the key's."""
    properties = {name: schema for name, schema in request["properties"].items() if name != "tenant"}
    return {
        **request,
        "title": "GenerationOrder",
        "description": "A GenerationRequest (v1) of the caller's own tenant; request_id is made where absent.",
        "examples": [
            {name: value for name, value in example.items() if name in properties} for example in request["examples"]
        ],
        "properties": {**properties, "request_id": or_null(properties["request_id"])},
        "required": ["prompt"],
        "additionalProperties": False,
    }
