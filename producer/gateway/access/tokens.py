"""OpenID Connect bearer tokens: whether one is good, and who it is."""

from __future__ import annotations

from typing import Any, Final

import jwt
import structlog

from darkroom.producer.gateway.access.provider_keys import ALGORITHMS, ProviderKeys
from darkroom.producer.gateway.access.refusals import no_tenant, unknown_credential
from darkroom.producer.gateway.principal import Principal, Scope
from darkroom.schemas.errors import bounded
from darkroom.schemas.names import is_identity
from darkroom.schemas.settings.access import AccessSettings

log = structlog.get_logger(__name__)

TOKEN_CHARACTERS_MAX: Final = 8_192
"""Providers' tokens have 1-4 KiB. Longer ones are refused before anything of them is decoded."""
NAME_CHARACTERS_MAX: Final = 128


class TokenReader:
    """Reads tokens of one issuer that are meant for one audience.

    The signature is checked by an asymmetric algorithm of a fixed list with the key that the token names; `iss`, `aud`,
    `exp` and `sub` have to be there, and `nbf` is kept where it is.
    """

    def __init__(self, settings: AccessSettings, keys: ProviderKeys) -> None:
        self._settings = settings
        self._keys = keys

    async def principal(self, token: str) -> Principal:
        """Who a token is. Raises `Problem`: 401 for one that is not good, 403 without a tenant, 503 as the keys do."""
        claims = await self._claims(token)
        tenant = claims.get(self._settings.oidc_tenant_claim)
        if not is_identity(tenant):
            raise no_tenant(self._settings.oidc_tenant_claim)
        return Principal(str(tenant), bounded(str(claims["sub"]), NAME_CHARACTERS_MAX), self._scopes(claims))

    async def _claims(self, token: str) -> dict[str, Any]:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise _refused("it is too long")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError) as error:
            raise _refused("its header cannot be read") from error
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise _refused("its algorithm is not allowed")
        if not isinstance(key_id, str) or not key_id:
            raise _refused("it names no key")
        usable = await self._keys.find(key_id)
        key = None if usable is None else usable.get(algorithm)
        if key is None:
            raise _refused("its key is not the provider's, or not for its algorithm")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._settings.oidc_audience,
                issuer=self._settings.oidc_issuer,
                leeway=self._settings.oidc_leeway_s,
                options={"require": ["iss", "aud", "exp", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise _refused(type(error).__name__) from error
        return claims

    def _scopes(self, claims: dict[str, Any]) -> frozenset[Scope]:
        said = claims.get(self._settings.oidc_scope_claim, ())
        names = said.split() if isinstance(said, str) else said if isinstance(said, list) else ()
        prefix = self._settings.oidc_scope_prefix
        return frozenset(scope for scope in Scope if prefix + scope.value in names)


def _refused(reason: str) -> Exception:
    log.info("token refused", reason=reason)
    return unknown_credential()
