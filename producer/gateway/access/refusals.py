"""The problems that whoever guards the gateway answers with, each worded once."""

from __future__ import annotations

from http import HTTPStatus

from darkroom.producer.gateway.principal import Principal, Scope
from darkroom.producer.gateway.problems import Problem

_BEARER = 'Bearer realm="darkroom"'


def nobody() -> Problem:
    """No credential was sent."""
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "credential_missing",
        "The call names nobody.",
        "Send a key or a token as Authorization: Bearer, a key as X-API-Key, or sign in on the page.",
        headers={"WWW-Authenticate": _BEARER},
    )


def unknown_credential() -> Problem:
    """A credential that opens nothing. Why is for the log: whoever guesses is not to learn how close it was."""
    return Problem(
        HTTPStatus.UNAUTHORIZED,
        "credential_invalid",
        "The credential is not known, is expired, or was taken back.",
        "Check the key or get a new token, and send it again.",
        headers={"WWW-Authenticate": f'{_BEARER}, error="invalid_token"'},
    )


def scope_missing(principal: Principal, scope: Scope) -> Problem:
    """A known caller that may not do this."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "scope_missing",
        f"{principal.name} may not {scope.value}.",
        f"Use a credential with the scope {scope.value}.",
        headers={"WWW-Authenticate": f'{_BEARER}, error="insufficient_scope", scope="{scope.value}"'},
    )


def no_tenant(claim: str) -> Problem:
    """A good token of somebody who has nothing here."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "tenant_missing",
        f"The token's claim {claim} names no tenant.",
        "Have the identity provider put a tenant into it: 1-128 of A-Za-z0-9._-, not starting with a dot.",
    )


def cross_site() -> Problem:
    """A browser was made to call by another site's page."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "cross_site",
        "The call changes something and does not come from this gateway's own page.",
        "Call from the page, or send a key as Authorization: Bearer instead of the cookie.",
    )


def cross_site_without_keys() -> Problem:
    """The same at a gateway that has no keys to tell another site's page by."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "cross_site",
        "The call changes something and does not come from this gateway's own page.",
        "Call from the page. Pages of other origins call with a key: have DARKROOM_ACCESS__KEYS_FILE set, and their "
        "origins listed in DARKROOM_ACCESS__ALLOWED_ORIGINS.",
    )


def not_local() -> Problem:
    """A caller from elsewhere, of a gateway that cannot tell callers apart."""
    return Problem(
        HTTPStatus.FORBIDDEN,
        "loopback_only",
        "This gateway has neither keys nor an identity provider, so it serves its own machine alone.",
        "Call it there, as localhost and without a proxy, or have DARKROOM_ACCESS__KEYS_FILE or "
        "DARKROOM_ACCESS__OIDC_ISSUER set.",
    )


def provider_away(retry_s: float) -> Problem:
    """Tokens cannot be checked at the moment."""
    return Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "identity_provider_away",
        "The identity provider does not answer, so the token cannot be checked.",
        "Try again a little later; API keys are not affected.",
        headers={"Retry-After": str(max(1, round(retry_s)))},
    )


def too_many(code: str, detail: str, retry_s: float) -> Problem:
    """A quota is used up."""
    seconds = max(1, int(retry_s) + 1)
    return Problem(
        HTTPStatus.TOO_MANY_REQUESTS,
        code,
        detail,
        f"Wait {seconds} s before the next try.",
        headers={"Retry-After": str(seconds)},
    )
