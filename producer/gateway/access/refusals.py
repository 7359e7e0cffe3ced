"""The problems that access control answers with."""

from __future__ import annotations

from http import HTTPStatus

from darkroom.producer.gateway.principal import Principal, Scope
from darkroom.producer.gateway.problems import Problem

_BEARER = 'Bearer realm="darkroom"'


def no_credential() -> Problem:
    """Return the 401 of a call without a credential."""
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "credential_missing",
        "The call has no credential.",
        "Send a key or a token as Authorization: Bearer, or a key as X-API-Key, or sign in on the page.",
        headers={"WWW-Authenticate": _BEARER},
    )


def unknown_credential() -> Problem:
    """Return the 401 of an invalid credential. Only the log says why: a guesser is not to learn how close it came."""
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "credential_invalid",
        "The credential is unknown, expired or revoked.",
        "Check the key, or get a new token.",
        headers={"WWW-Authenticate": f'{_BEARER}, error="invalid_token"'},
    )


def scope_missing(principal: Principal, scope: Scope) -> Problem:
    """Return the 403 of a known caller without the scope."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "scope_missing",
        f"{principal.name} lacks the scope {scope.value}.",
        f"Use a credential with the scope {scope.value}.",
        headers={"WWW-Authenticate": f'{_BEARER}, error="insufficient_scope", scope="{scope.value}"'},
    )


def no_tenant(claim: str) -> Problem:
    """Return the 403 of a valid token without a tenant."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "tenant_missing",
        f"The token's claim {claim} holds no valid tenant.",
        "Have the identity provider put a tenant there: 1-128 characters of A-Za-z0-9._-, not starting with a dot.",
    )


def cross_site() -> Problem:
    """Return the 403 of a call that another site's page made a browser send."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "cross_site",
        "A call that changes something has to come from this gateway's own page, and this one does not.",
        "Call from the page, or send a key as Authorization: Bearer instead of the cookie.",
    )


def cross_site_without_keys() -> Problem:
    """Return the same 403 of a gateway without keys, which has no other way to admit the page of another origin."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "cross_site",
        "A call that changes something has to come from this gateway's own page, and this one does not.",
        "Call from that page. Pages of other origins need a key: set DARKROOM_ACCESS__KEYS_FILE, and add their origins "
        "to DARKROOM_ACCESS__ALLOWED_ORIGINS.",
    )


def not_local() -> Problem:
    """Return the 403 of a caller on another machine, at a gateway that cannot authenticate callers."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "loopback_only",
        "This gateway has neither keys nor an identity provider, so it serves callers on its own machine alone.",
        "Call it there, as localhost and without a proxy, or set DARKROOM_ACCESS__KEYS_FILE or "
        "DARKROOM_ACCESS__OIDC_ISSUER.",
    )


def provider_away(retry_s: float) -> Problem:
    """Return the 503 of a token that cannot be checked at the moment. `retry_s` is in seconds."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "identity_provider_away",
        "The identity provider does not answer, so the token cannot be checked.",
        "Try again a little later; API keys are not affected.",
        headers={"Retry-After": str(max(1, round(retry_s)))},
    )


def too_many(code: str, detail: str, retry_s: float) -> Problem:
    """Return the 429 of a used-up quota. `retry_s` is in seconds."""
    seconds = max(1, int(retry_s) + 1)
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        code,
        detail,
        f"Wait {seconds} s before you try again.",
        headers={"Retry-After": str(seconds)},
    )
