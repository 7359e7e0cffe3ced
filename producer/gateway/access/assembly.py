"""Puts access control together from the settings, once for a process: all of it as `access_of`, or its parts."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import structlog
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from darkroom.producer.gateway.access.access_log import CALL_ID_HEADER, AccessLog
from darkroom.producer.gateway.access.bodies import InputLimits
from darkroom.producer.gateway.access.cookies import CookieSigner
from darkroom.producer.gateway.access.gatekeeper import CredentialGatekeeper, LoopbackGatekeeper
from darkroom.producer.gateway.access.keys import KEYS_BYTES_MAX, KeyRing, parse_keys
from darkroom.producer.gateway.access.metrics import AccessMetrics
from darkroom.producer.gateway.access.protection import SecurityHeaders
from darkroom.producer.gateway.access.provider_keys import ProviderKeys
from darkroom.producer.gateway.access.quotas import LocalCounts, TenantQuotas
from darkroom.producer.gateway.access.sessions import Sessions
from darkroom.producer.gateway.access.tokens import TokenReader
from darkroom.producer.gateway.principal import Gatekeeper, Quotas
from darkroom.producer.gateway.problems import Problem
from darkroom.producer.policy.policy_file import PolicyFile
from darkroom.producer.watched_file import WatchedFile
from darkroom.schemas.errors import ErrorCode, describe
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings

log = structlog.get_logger(__name__)

CheckedPrompt = Callable[[GenerationRequest], Awaitable[Problem | None]]

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_HEADERS = (
    *("Authorization", "X-API-Key", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID"),
    *("Cache-Control", CALL_ID_HEADER),  # of clients of event streams; of clients that number their calls
    *("traceparent", "tracestate", "baggage"),  # OpenTelemetry's page instrumentation
)
"""What a page's call may carry beside what every call may (Fetch, 2.2.2). One that is missing fails the whole call."""
_EXPOSED = ("Location", "Retry-After", "ETag", "Allow", "WWW-Authenticate", "X-Seed", CALL_ID_HEADER)
"""What a page may read of an answer beside what it always may."""
CORS_S_MAX = 600
"""How long a browser may remember that an origin is allowed."""

_Gatekeeper = CredentialGatekeeper | LoopbackGatekeeper


async def _nothing() -> None:
    """Where there is nothing to close."""


@dataclass(frozen=True, slots=True)
class AccessControl:
    """What the gateway's application is made with."""

    gatekeeper: Gatekeeper
    quotas: Quotas
    policy: CheckedPrompt
    sessions: APIRouter
    outside: Sequence[Middleware] = ()
    """Around everything, the outermost first: the log's line and the headers that 500s carry, too."""
    inside: Sequence[Middleware] = ()
    """Within what counts calls and answers what nobody foresaw: the bounds on what comes in."""
    close: Callable[[], Awaitable[None]] = _nothing
    """To be called at the process's end."""


def access_of(settings: Settings, registry: CollectorRegistry, *, image_origins: Sequence[str] = ()) -> AccessControl:
    """All of it, counting in a registry. Raises `SettingsError` for a file of keys or policy that cannot be used."""
    metrics = AccessMetrics(registry)
    cookies = cookies_of(settings)
    gatekeeper = gatekeeper_of(settings, cookies, metrics)
    quotas = quotas_of(settings, metrics)
    return AccessControl(
        gatekeeper,
        quotas,
        policy_of(settings, metrics),
        session_routes(settings, gatekeeper, cookies),
        outside_of(settings, image_origins=image_origins),
        [Middleware(InputLimits, settings=settings.access)],
        quotas.close,
    )


def cookies_of(settings: Settings) -> CookieSigner:
    """What signs the page's cookies."""
    access = settings.access
    if access.session_secret is not None:
        return CookieSigner(access.session_secret.get_secret_value().encode())
    if access.keys_file is not None:
        log.warning(
            "no session secret is set: signing in ends at a restart, and several replicas do not know each other's "
            "sessions; set DARKROOM_ACCESS__SESSION_SECRET"
        )
    return CookieSigner(secrets.token_bytes(32))


def gatekeeper_of(settings: Settings, cookies: CookieSigner, metrics: AccessMetrics) -> _Gatekeeper:
    """Who is let in. Raises `SettingsError` for a keys' file that cannot be used."""
    access = settings.access
    if access.loopback_only:
        return LoopbackGatekeeper()
    keys: WatchedFile[KeyRing] | None = None
    if access.keys_file is not None:
        keys = WatchedFile(
            access.keys_file,
            parse_keys,
            bytes_max=KEYS_BYTES_MAX,
            reload_s=access.reload_s,
            on_failure=partial(metrics.file_failures.labels("keys").inc, 1),
        )
    tokens = None
    if access.oidc_issuer is not None:
        provider = ProviderKeys(access, on_failure=partial(metrics.provider_failures.inc, 1))
        tokens = TokenReader(access, provider)
    return CredentialGatekeeper(keys, tokens, cookies)


def quotas_of(settings: Settings, metrics: AccessMetrics) -> TenantQuotas:
    """How much a tenant may ask for."""
    shared = None
    if settings.access.redis_url is not None:
        from darkroom.producer.gateway.access.redis_counts import RedisCounts

        shared = RedisCounts(settings.access)
    return TenantQuotas(settings.access, LocalCounts(settings.access), shared, metrics)


def session_routes(settings: Settings, gatekeeper: _Gatekeeper, cookies: CookieSigner) -> APIRouter:
    """`/session`, for the page."""
    return Sessions(settings.access, gatekeeper, cookies).router()


def outside_of(settings: Settings, *, image_origins: Sequence[str] = ()) -> list[Middleware]:
    """What every call and every answer goes through, the outermost first.

    `image_origins` are the origins that pictures' presigned addresses lead to, for the page's policy.
    """
    access = settings.access
    middlewares = [Middleware(AccessLog), Middleware(SecurityHeaders, image_origins=tuple(image_origins))]
    if access.allowed_origins:
        if access.loopback_only:
            log.warning(
                "pages of the allowed origins can read and change nothing: they call with a key, and neither "
                "DARKROOM_ACCESS__KEYS_FILE nor DARKROOM_ACCESS__OIDC_ISSUER is set"
            )
        middlewares.append(
            Middleware(
                CORSMiddleware,
                allow_origins=access.allowed_origins,
                allow_methods=_METHODS,
                allow_headers=_HEADERS,
                expose_headers=_EXPOSED,
                allow_credentials=False,
                # A gateway at a private address, called by a page of a public one: its origin was listed for that.
                allow_private_network=True,
                max_age=CORS_S_MAX,
            )
        )
    return middlewares


def policy_of(settings: Settings, metrics: AccessMetrics) -> CheckedPrompt:
    """The prompt policy, as the routes ask it. Raises `SettingsError` for a file that cannot be used."""
    policy = PolicyFile(
        settings.policy,
        on_rejected=lambda category: metrics.policy_rejections.labels(category).inc(),
        on_reload_failed=partial(metrics.file_failures.labels("policy").inc, 1),
    )

    async def check(request: GenerationRequest) -> Problem | None:
        rejection = await policy.judge(request.prompt, request.negative_prompt)
        if rejection is None:
            return None
        return Problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            ErrorCode.PROMPT_REJECTED.value,
            str(rejection),
            describe(ErrorCode.PROMPT_REJECTED).remedy,
            request_id=request.request_id,
            category=rejection.category,
            policy_version=rejection.version,
        )

    return check
