"""The gateway as an ASGI application: assembles its parts and its routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from importlib.metadata import version
from typing import Final

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware

from darkroom.producer.callbacks.receivers import read_receivers
from darkroom.producer.gateway.access.assembly import AccessControl
from darkroom.producer.gateway.access.middleware import TrailingSlash
from darkroom.producer.gateway.error_handlers import Guard, handle_errors
from darkroom.producer.gateway.gateway import Gateway
from darkroom.producer.gateway.jobs.acceptance import Acceptance
from darkroom.producer.gateway.jobs.answers import Addresses
from darkroom.producer.gateway.jobs.claims import Claims
from darkroom.producer.gateway.jobs.feed import JobEnds
from darkroom.producer.gateway.jobs.jobs import Jobs
from darkroom.producer.gateway.jobs.submissions import Submissions
from darkroom.producer.gateway.jobs.uploads import Uploads
from darkroom.producer.gateway.metrics import Metrics
from darkroom.producer.gateway.openapi import openapi_of
from darkroom.producer.gateway.routes import events, generate, generations, images, openai, site
from darkroom.producer.gateway.services import OpenServices, Services, connected
from darkroom.producer.outages import watch_outages
from darkroom.producer.recipes_file import read_recipes
from darkroom.producer.tasks import TaskSupervisor
from darkroom.schemas.recipes import Recipes
from darkroom.schemas.settings import Settings

_PROBES: Final = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
"""Paths whose calls nobody traces: every few seconds the same."""
GZIP_BYTES_MIN: Final = 1024
"""Bytes below which compressing saves no packet."""
GZIP_LEVEL: Final = 5
"""Nearly as small as 9, at a third of the time."""
_ABOUT = "Submits jobs over HTTP and returns their state and pictures. Errors are RFC 9457 problem details."


def create_app(
    settings: Settings,
    access: AccessControl,
    metrics: Metrics,
    *,
    open_services: OpenServices = connected,
    make_tasks: Callable[..., TaskSupervisor] = TaskSupervisor,
) -> FastAPI:
    """Return the application. Its lifespan opens Kafka and the store; while they are away it runs and answers 503.

    Raises `SettingsError` for a file of recipes or of callbacks that cannot be used.
    `app.state.gateway` is the `Gateway` while the lifespan runs. The end of the lifespan closes `access`.
    """

    recipes = read_recipes(settings.model.recipes_file)
    receivers = read_receivers(settings.hooks).keys()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        ends = JobEnds(access.quotas)
        async with contextlib.AsyncExitStack() as open_:
            open_.push_async_callback(access.close)
            tasks = await open_.enter_async_context(
                make_tasks(
                    on_kept=metrics.task_restarts.labels,
                    on_restart=lambda name: metrics.task_restarts.labels(name).inc(),
                )
            )
            tasks.keep("outages", watch_outages)
            tasks.keep("finished", ends.run, matters="finished jobs keep counting against quotas")
            services = await open_.enter_async_context(open_services(settings, ends.note, tasks))
            app.state.gateway = _gateway(
                settings, services, access, metrics, tasks, recipes=recipes, receivers=receivers
            )
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
        # FastAPI makes a span of each call as soon as the process has a provider of spans; no more than that.
        telemetry={
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: scope["path"] in _PROBES,
        },
        middleware=[
            *access.outside,
            # Text alone: pictures are compressed, and event streams are not held back.
            Middleware(GZipMiddleware, minimum_size=GZIP_BYTES_MIN, compresslevel=GZIP_LEVEL),
            Middleware(Guard, metrics=metrics),
            *access.inside,
            Middleware(TrailingSlash),
        ],
    )
    for router in (
        generations.router,
        events.router,
        images.router,
        generate.router,
        openai.router,
        site.operation,
        access.sessions,
        site.pages,
    ):
        app.include_router(router)
    handle_errors(app, metrics, settings.gateway.retry_after_s)
    app.openapi = lambda: openapi_of(app, settings.gateway.public_url)  # type: ignore[method-assign] # as FastAPI's manual says to extend it
    return app


def _gateway(
    settings: Settings,
    services: Services,
    access: AccessControl,
    metrics: Metrics,
    tasks: TaskSupervisor,
    *,
    recipes: Recipes,
    receivers: Collection[str],
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
        acceptance=Acceptance(
            services,
            claims,
            jobs,
            quotas=access.quotas,
            policy=access.policy,
            metrics=metrics,
            backlog_s_max=own.backlog_s_max,
        ),
        recipes=recipes,
        controls=settings.model.offered_controls,
        submissions=Submissions(
            settings,
            uploads,
            recipes,
            bucket=services.store.bucket,
            prefix=services.store.prefix,
            receivers=receivers,
        ),
        gatekeeper=access.gatekeeper,
        quotas=access.quotas,
        addresses=addresses,
        metrics=metrics,
        tasks=tasks,
    )
