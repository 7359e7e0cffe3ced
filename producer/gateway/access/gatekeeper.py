"""Authenticates callers: by a key or token in a header, by the page's cookie, or, with nothing configured, as local.

A credential that is sent has to be valid: an invalid one is refused, whatever else the call carries.
"""

from __future__ import annotations

import ipaddress
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from typing_extensions import override

from darkroom.producer.gateway.access.cookies import COOKIE_NAME, SECURE_COOKIE_NAME, CookieSigner
from darkroom.producer.gateway.access.keys import ApiKey, KeyRing, looks_like_key
from darkroom.producer.gateway.access.refusals import (
    cross_site,
    cross_site_without_keys,
    no_credential,
    not_local,
    scope_missing,
    unknown_credential,
)
from darkroom.producer.gateway.principal import ALL_SCOPES, Gatekeeper, Principal, Scope
from darkroom.producer.watched_file import WatchedFile
from darkroom.schemas.names import DEFAULT_TENANT

if TYPE_CHECKING:
    from darkroom.producer.gateway.access.oidc import TokenReader

PRINCIPAL_STATE: Final = "principal"
"""The place of the caller in a call's scope, for the access log."""
_LOOPBACK: Final = Principal(DEFAULT_TENANT, "loopback", ALL_SCOPES)


class LoopbackGatekeeper(Gatekeeper):
    """Admits callers on this machine as the default tenant with all scopes."""

    needs_key: Final = False

    @override
    async def identify(self, connection: HTTPConnection, scope: Scope) -> Principal:
        principal = await self.known(connection)
        return _noted(connection, principal, scope)

    async def known(self, connection: HTTPConnection) -> Principal:
        """Return the caller, whatever its scopes. Raises `Problem` 403 for a caller on another machine.

        Calls that another site's page makes a local browser send are refused, too: they need no credential here.
        """
        if not is_local(connection):
            raise not_local()
        if changes_something(connection) and not same_origin(connection, unsaid=True):
            raise cross_site_without_keys()
        return _LOOPBACK


class CredentialGatekeeper(Gatekeeper):
    """Admits callers with a key, a token or a cookie."""

    needs_key: Final = True

    def __init__(self, keys: WatchedFile[KeyRing] | None, tokens: TokenReader | None, cookies: CookieSigner) -> None:
        self._keys = keys
        self._tokens = tokens
        self._cookies = cookies

    @override
    async def identify(self, connection: HTTPConnection, scope: Scope) -> Principal:
        principal = await self.known(connection)
        return _noted(connection, principal, scope)

    async def known(self, connection: HTTPConnection) -> Principal:
        """Return the caller, whatever its scopes. Raises `Problem` 401, 403 for a cookie from another site, or 503."""
        credential = _in_headers(connection)
        if credential is not None:
            return await self._shown(credential)
        if session := await self.signed_in(connection):
            if changes_something(connection) and not same_origin(connection, unsaid=False):
                raise cross_site()
            return session
        raise no_credential()

    async def signed_in(self, connection: HTTPConnection) -> Principal | None:
        """Return the caller by the call's cookie. Revoking a key ends its sessions."""
        value = connection.cookies.get(SECURE_COOKIE_NAME) or connection.cookies.get(COOKIE_NAME)
        session = self._cookies.read(value, now=time.time()) if value and self._keys is not None else None
        if session is None or self._keys is None:
            return None
        key = (await self._keys.current()).active(session.key_id, datetime.now(UTC))
        return _principal(key) if key is not None and session.belongs_to(key) else None

    async def key_of(self, text: str) -> ApiKey | None:
        """Return the active key that a text is, or None."""
        return None if self._keys is None else (await self._keys.current()).opened_by(text, datetime.now(UTC))

    async def _shown(self, credential: str) -> Principal:
        if not looks_like_key(credential) and self._tokens is not None:
            return await self._tokens.principal(credential)
        key = await self.key_of(credential)
        if key is None:
            raise unknown_credential()
        return _principal(key)


def _in_headers(connection: HTTPConnection) -> str | None:
    """Return the key or token in a call's headers. Raises `Problem` 401 for another kind of authorization."""
    if (authorization := connection.headers.get("authorization")) is not None:
        kind, _, credential = authorization.partition(" ")
        if kind.lower() != "bearer":
            raise unknown_credential()
        return credential.strip()
    key = connection.headers.get("x-api-key")
    return None if key is None else key.strip()


def _principal(key: ApiKey) -> Principal:
    return Principal(key.tenant, key.id, key.scopes)


def _noted(connection: HTTPConnection, principal: Principal, scope: Scope) -> Principal:
    connection.scope.setdefault("state", {})[PRINCIPAL_STATE] = principal
    if scope not in principal.scopes:
        raise scope_missing(principal, scope)
    return principal


# --- Where a call comes from ----------------------------------------------------------------------------

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")


def changes_something(connection: HTTPConnection) -> bool:
    """Return whether the call's method is one that may change something."""
    return connection.scope.get("method", "GET") not in _SAFE_METHODS


def same_origin(connection: HTTPConnection, *, unsaid: bool) -> bool:
    """Return whether the call comes from this gateway's own page; `unsaid` if no header tells.

    Browsers tell in Sec-Fetch-Site, which no page can forge. Older ones tell in Origin, which is compared with Host
    without its scheme: a proxy may terminate TLS. Programs other than browsers send neither.
    """
    headers = connection.headers
    if site := headers.get("sec-fetch-site"):
        return site == "same-origin"
    if origin := headers.get("origin"):
        try:
            return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        except ValueError:
            return False
    return unsaid


def is_local(connection: HTTPConnection) -> bool:
    """Return whether the caller is on this machine, used one of its loopback names, and came without a proxy.

    The check of the name keeps out pages whose host resolves to 127.0.0.1 (DNS rebinding): their browser is local, but
    the page is not.
    """
    client = connection.client
    if client is None or not _is_loopback(client.host):
        return False
    if any(name in connection.headers for name in _PROXIED):
        return False
    try:
        name = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
