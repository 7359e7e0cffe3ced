"""Who calls: by a key or a token in a header, by the page's cookie, or, where nothing is configured, from this machine.

A credential that is sent has to be good: a bad one is refused, whatever else the call carries.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final

from starlette.requests import HTTPConnection

from darkroom.producer.gateway.access.cookies import CookieSigner
from darkroom.producer.gateway.access.keys import ApiKey, KeyRing, looks_like_key
from darkroom.producer.gateway.access.origins import changes_something, is_local, same_origin
from darkroom.producer.gateway.access.refusals import (
    cross_site,
    cross_site_without_keys,
    nobody,
    not_local,
    scope_missing,
    unknown_credential,
)
from darkroom.producer.gateway.access.tokens import TokenReader
from darkroom.producer.gateway.principal import ALL_SCOPES, Principal, Scope
from darkroom.producer.watched_file import WatchedFile
from darkroom.schemas.names import DEFAULT_TENANT

COOKIE_NAME: Final = "darkroom_session"
SECURE_COOKIE_NAME: Final = "__Host-darkroom_session"
"""Browsers take a cookie of this prefix from this host alone, over https alone: no neighbour can plant one."""
PRINCIPAL_STATE: Final = "principal"
"""Where a call's scope holds who calls, for the access log."""
_LOOPBACK: Final = Principal(DEFAULT_TENANT, "loopback", ALL_SCOPES)


class LoopbackGatekeeper:
    """Admits callers on this machine, as the default tenant with all scopes."""

    needs_key: Final = False

    async def identify(self, connection: HTTPConnection, scope: Scope) -> Principal:
        """As `Gatekeeper` says."""
        principal = await self.known(connection)
        return _noted(connection, principal, scope)

    async def known(self, connection: HTTPConnection) -> Principal:
        """Who calls, whatever they may do. Raises `Problem` 403 for whoever is elsewhere.

        Other sites' pages can make a local browser call, and need no credential here: they are refused as well.
        """
        if not is_local(connection):
            raise not_local()
        if changes_something(connection) and not same_origin(connection, unsaid=True):
            raise cross_site_without_keys()
        return _LOOPBACK


class CredentialGatekeeper:
    """Admits whoever shows a key, a token or a cookie."""

    needs_key: Final = True

    def __init__(self, keys: WatchedFile[KeyRing] | None, tokens: TokenReader | None, cookies: CookieSigner) -> None:
        self._keys = keys
        self._tokens = tokens
        self._cookies = cookies

    async def identify(self, connection: HTTPConnection, scope: Scope) -> Principal:
        """As `Gatekeeper` says."""
        principal = await self.known(connection)
        return _noted(connection, principal, scope)

    async def known(self, connection: HTTPConnection) -> Principal:
        """Who calls, whatever they may do. Raises `Problem` 401, 403 for a cookie that another site sends, or 503."""
        credential = _in_headers(connection)
        if credential is not None:
            return await self._shown(credential)
        if session := await self.signed_in(connection):
            if changes_something(connection) and not same_origin(connection, unsaid=False):
                raise cross_site()
            return session
        raise nobody()

    async def signed_in(self, connection: HTTPConnection) -> Principal | None:
        """Who the call's cookie says. A key that was taken back has ended its sessions."""
        value = connection.cookies.get(SECURE_COOKIE_NAME) or connection.cookies.get(COOKIE_NAME)
        session = self._cookies.read(value, now=time.time()) if value and self._keys is not None else None
        if session is None or self._keys is None:
            return None
        key = (await self._keys.current()).active(session.key_id, datetime.now(UTC))
        return _of(key) if key is not None and session.belongs_to(key) else None

    async def key_of(self, text: str) -> ApiKey | None:
        """The key that a text is, where it opens something."""
        return None if self._keys is None else (await self._keys.current()).opened_by(text, datetime.now(UTC))

    async def _shown(self, credential: str) -> Principal:
        if not looks_like_key(credential) and self._tokens is not None:
            return await self._tokens.principal(credential)
        key = await self.key_of(credential)
        if key is None:
            raise unknown_credential()
        return _of(key)


def _in_headers(connection: HTTPConnection) -> str | None:
    """The key or token of a call's headers. Raises `Problem` for another kind of authorization."""
    if (authorization := connection.headers.get("authorization")) is not None:
        kind, _, credential = authorization.partition(" ")
        if kind.lower() != "bearer":
            raise unknown_credential()
        return credential.strip()
    key = connection.headers.get("x-api-key")
    return None if key is None else key.strip()


def _of(key: ApiKey) -> Principal:
    return Principal(key.tenant, key.id, frozenset(Scope(scope) for scope in key.scopes))


def _noted(connection: HTTPConnection, principal: Principal, scope: Scope) -> Principal:
    connection.scope.setdefault("state", {})[PRINCIPAL_STATE] = principal
    if not principal.may(scope):
        raise scope_missing(principal, scope)
    return principal
