"""Assembles access control from the settings, once per process."""

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

from darkroom.producer.gateway.access.cookies import CookieSigner
from darkroom.producer.gateway.access.gatekeeper import CredentialGatekeeper, LoopbackGatekeeper
from darkroom.producer.gateway.access.keys import KEYS_BYTES_MAX, KeyRing, parse_keys
from darkroom.producer.gateway.access.middleware import CALL_ID_HEADER, AccessLog, InputLimits, SecurityHeaders
from darkroom.producer.gateway.access.quotas import LocalCounts, TenantQuotas
from darkroom.producer.gateway.metrics import AccessMetrics
from darkroom.producer.gateway.principal import Gatekeeper, Quotas
from darkroom.producer.gateway.problems import Problem, coded
from darkroom.producer.gateway.routes.session import Sessions
from darkroom.producer.policy.policy_file import PolicyFile
from darkroom.producer.watched_file import WatchedFile
from darkroom.schemas.errors import ErrorCode
from darkroom.schemas.events.request import GenerationRequest
from darkroom.schemas.settings import Settings

log = structlog.get_logger(__name__)

CheckedPrompt = Callable[[GenerationRequest], Awaitable[Problem | None]]

_METHODS = ("GET", "HEAD", "POST", "DELETE")
_HEADERS = (
    *("Authorization", "X-API-Key", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID"),
    *("Prefer", "Range", "If-Range"),
    *("Cache-Control", CALL_ID_HEADER),  # sent by clients of event streams; by clients that number their calls
    *("traceparent", "tracestate", "baggage"),  # sent by OpenTelemetry's instrumentation of pages
)
"""Headers that a page may send beside the safelisted ones (Fetch, 2.2.2). A missing one fails the whole call."""
_EXPOSED = (
    "Location",
    "Retry-After",
    "ETag",
    "Allow",
    "WWW-Authenticate",
    "X-Seed",
    "Content-Range",
    "Preference-Applied",
    CALL_ID_HEADER,
)
"""Response headers that a page may read beside the safelisted ones."""
CORS_S_MAX = 600
"""Seconds for which a browser may remember that an origin is allowed."""

_Gatekeeper = CredentialGatekeeper | LoopbackGatekeeper


async def _nothing() -> None:
    """Close nothing."""


@dataclass(frozen=True, slots=True)
class AccessControl:
    """All that guards the gateway's application."""

    gatekeeper: Gatekeeper
    quotas: Quotas
    policy: CheckedPrompt
    sessions: APIRouter
    outside: Sequence[Middleware] = ()
    """Middleware around everything, outermost first: the log line and the headers that a 500 carries, too."""
    inside: Sequence[Middleware] = ()
    """Middleware within `Guard`: the limits on input, whose refusals are counted."""
    close: Callable[[], Awaitable[None]] = _nothing
    """Called at the end of the process."""


def access_of(settings: Settings, registry: CollectorRegistry, *, image_origins: Sequence[str] = ()) -> AccessControl:
    """Return access control, its metrics in `registry`. Raises `SettingsError` for an unusable keys or policy file."""
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
    """Return what signs the page's cookies."""
    access = settings.access
    if access.session_secret is not None:
        return CookieSigner(access.session_secret.get_secret_value().encode())
    if access.keys_file is not None:
        log.warning(
            "no session secret is set: sessions end at a restart and are unknown to other replicas; set "
            "DARKROOM_ACCESS__SESSION_SECRET"
        )
    return CookieSigner(secrets.token_bytes(32))


def gatekeeper_of(settings: Settings, cookies: CookieSigner, metrics: AccessMetrics) -> _Gatekeeper:
    """Return what authenticates callers. Raises `SettingsError` for a keys file that cannot be used."""
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
        # Here, so that a gateway without an identity provider does not load what only its tokens need.
        from darkroom.producer.gateway.access.oidc import ProviderKeys, TokenReader

        provider = ProviderKeys(access, on_failure=partial(metrics.provider_failures.inc, 1))
        tokens = TokenReader(access, provider)
    return CredentialGatekeeper(keys, tokens, cookies)


def quotas_of(settings: Settings, metrics: AccessMetrics) -> TenantQuotas:
    """Return the tenants' quotas, in Redis if it is configured."""
    shared = None
    if settings.access.redis_url is not None:
        from darkroom.producer.gateway.access.redis_counts import RedisCounts

        shared = RedisCounts(settings.access)
    return TenantQuotas(settings.access, LocalCounts(settings.access), shared, metrics)


def session_routes(settings: Settings, gatekeeper: _Gatekeeper, cookies: CookieSigner) -> APIRouter:
    """Return the routes of `/session`."""
    return Sessions(settings.access, gatekeeper, cookies).router()


def outside_of(settings: Settings, *, image_origins: Sequence[str] = ()) -> list[Middleware]:
    """Return the middleware around everything, outermost first.

    `image_origins` are the origins of the pictures' presigned URLs, for the page's Content-Security-Policy.
    """
    access = settings.access
    middlewares = [Middleware(AccessLog), Middleware(SecurityHeaders, image_origins=tuple(image_origins))]
    if access.allowed_origins:
        if access.loopback_only:
            log.warning(
                "pages of the allowed origins can do nothing: they need a key or a token, and neither "
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
                # For a page at a public address that calls a gateway at a private one: its origin was allowed for that.
                allow_private_network=True,
                max_age=CORS_S_MAX,
            )
        )
    return middlewares


def policy_of(settings: Settings, metrics: AccessMetrics) -> CheckedPrompt:
    """Return the check of prompts against the policy. Raises `SettingsError` for a policy file that cannot be used."""
    policy = PolicyFile(
        settings.policy,
        on_rejected=lambda category: metrics.policy_rejections.labels(category).inc(),
        on_reload_failed=partial(metrics.file_failures.labels("policy").inc, 1),
    )

    async def check(request: GenerationRequest) -> Problem | None:
        rejection = await policy.judge(request.prompt, request.negative_prompt)
        if rejection is None:
            return None
        return coded(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            ErrorCode.PROMPT_REJECTED,
            str(rejection),
            request_id=request.request_id,
            category=rejection.category,
            policy_version=rejection.version,
        )

    return check
