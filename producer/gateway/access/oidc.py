"""OpenID Connect bearer tokens: checks them, with the identity provider's public keys, and tells whose they are.

The keys are fetched by our own code rather than by `jwt.PyJWKClient` (PyJWT 2.15), which is weaker where tests hold us:
it blocks the thread, and one lock makes every caller wait for the fetch; it reads an answer of any length, for as long
as each read takes less than its time-out; it forgets expired keys while the provider is away; tokens with unknown key
ids make it fetch without a pause while that lasts; and it binds an RSA key without `alg` to RS256, so that tokens
signed with PS256 are refused.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import jwt
import structlog

from darkroom.producer.gateway.access.refusals import no_tenant, provider_away, unknown_credential
from darkroom.producer.gateway.principal import Principal, Scope
from darkroom.producer.outages import IDENTITY_PROVIDER
from darkroom.schemas.errors import bounded
from darkroom.schemas.names import is_identity
from darkroom.schemas.settings.access import AccessSettings

log = structlog.get_logger(__name__)

TOKEN_CHARACTERS_MAX: Final = 8_192
"""Providers' tokens have 1-4 KiB. Longer ones are refused before anything of them is decoded."""
NAME_CHARACTERS_MAX: Final = 128
DOCUMENT_BYTES_MAX: Final = 512 * 1024
KEYS_MAX: Final = 100
UNKNOWN_KEY_PAUSE_S: Final = 60.0
"""The shortest time between two fetches for the sake of unknown key ids: anybody can write a token with one."""
FAILURE_PAUSE_S: Final = 10.0
"""How long after a failed fetch no caller waits for another."""
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA")
"""Asymmetric algorithms alone: with HS256, the public key would be a password that everybody knows."""
_KINDS: Final = {"RSA": ("RS256", "PS256"), "EC": ("ES256",), "OKP": ("EdDSA",)}

ProviderKey = Mapping[str, jwt.PyJWK]
"""One public key, by the algorithms that it may be used with."""


class TokenReader:
    """Reads the tokens of one issuer for one audience.

    The signature is checked with the key that the token names and an asymmetric algorithm of a fixed list. `iss`,
    `aud`, `exp` and `sub` are required; `nbf` is checked if present.
    """

    def __init__(self, settings: AccessSettings, keys: ProviderKeys) -> None:
        self._settings = settings
        self._keys = keys

    async def principal(self, token: str) -> Principal:
        """Return a token's caller. Raises `Problem`: 401 if it is invalid, 403 without a tenant, 503 without keys."""
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


# --- The provider's keys --------------------------------------------------------------------------------


class ProviderUnreadable(Exception):  # noqa: N818 - named for what happened
    """The provider's answer is not the document that it should be."""


class ProviderKeys:
    """The provider's keys by their ids. At most one fetch is in progress at a time."""

    def __init__(
        self,
        settings: AccessSettings,
        *,
        on_failure: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert settings.oidc_issuer is not None
        self._settings = settings
        self._issuer = settings.oidc_issuer
        self._on_failure = on_failure
        self._clock = clock
        self._keys: dict[str, ProviderKey] | None = None
        self._fetched_at = self._failed_at = self._asked_for_unknown_at = float("-inf")
        self._tls = httpx.create_ssl_context(trust_env=False)  # made once: it reads all authorities
        self._fetches = 0
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str) -> ProviderKey | None:
        """Return the key of an id, or None if the provider has none. Raises `Problem` 503 if no keys are known."""
        if self._clock() - self._fetched_at >= self._settings.oidc_keys_ttl_s:
            await self._refresh()
        keys = self._usable()
        if key_id not in keys and self._clock() - self._asked_for_unknown_at >= UNKNOWN_KEY_PAUSE_S:
            self._asked_for_unknown_at = self._clock()
            await self._refresh()
            keys = self._usable()
        return keys.get(key_id)

    def _usable(self) -> dict[str, ProviderKey]:
        age_s_max = self._settings.oidc_keys_ttl_s + self._settings.oidc_keys_stale_s_max
        if self._keys is None or self._clock() - self._fetched_at > age_s_max:
            raise provider_away(FAILURE_PAUSE_S)
        return self._keys

    async def _refresh(self) -> None:
        """Fetch the keys, unless another call just did or the last fetch just failed. Never raises."""
        fetches = self._fetches
        async with self._fetching:
            if self._fetches != fetches or self._clock() - self._failed_at < FAILURE_PAUSE_S:
                return
            self._fetches += 1
            try:
                async with asyncio.timeout(self._settings.oidc_timeout_s):
                    keys = await self._fetch()
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ProviderUnreadable) as error:
                IDENTITY_PROVIDER.failed("keys", f"its keys could not be fetched: {bounded(str(error) or repr(error))}")
                self._failed_at = self._clock()
                self._on_failure()
                return
            IDENTITY_PROVIDER.answered("keys")
            self._keys, self._fetched_at = keys, self._clock()

    async def _fetch(self) -> dict[str, ProviderKey]:
        timeout = httpx.Timeout(self._settings.oidc_timeout_s)
        async with httpx.AsyncClient(
            timeout=timeout, follow_redirects=False, trust_env=False, verify=self._tls
        ) as client:
            url = self._settings.oidc_jwks_url or await self._discovered(client)
            found = await _document(client, url)
        entries = found.get("keys")
        if not isinstance(entries, list) or len(entries) > KEYS_MAX:
            raise ProviderUnreadable(f"{url} has no list of at most {KEYS_MAX} keys")
        keys = {}
        for entry in entries:
            if isinstance(entry, dict) and isinstance(entry.get("kid"), str) and entry.get("use", "sig") == "sig":
                keys[entry["kid"]] = _key(entry)
        return keys

    async def _discovered(self, client: httpx.AsyncClient) -> str:
        found = await _document(client, self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        url = found.get("jwks_uri")
        if found.get("issuer") != self._issuer or not isinstance(url, str):
            raise ProviderUnreadable(f"the discovery document is not that of {self._issuer}")
        if not url.startswith("https://") and self._issuer.startswith("https://"):
            raise ProviderUnreadable("the discovery document has a jwks_uri without https")
        return url


def _key(entry: dict[str, Any]) -> ProviderKey:
    """Return the key by the algorithms that it is for: by none if it is unusable or of another kind."""
    key: dict[str, jwt.PyJWK] = {}
    for algorithm in _KINDS.get(str(entry.get("kty")), ()):
        if entry.get("alg", algorithm) in (algorithm, "Ed25519"):
            try:
                key[algorithm] = jwt.PyJWK(entry, algorithm)
            except Exception as error:  # PyJWT checks neither the members' types nor what they hold
                log.warning(
                    "a key of the identity provider is unusable: its tokens are refused",
                    key_id=bounded(str(entry["kid"])),
                    algorithm=algorithm,
                    error=f"{type(error).__name__}: {bounded(str(error))}",
                )
    return key


async def _document(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    content = bytearray()
    async with client.stream("GET", url, headers={"Accept": "application/json"}) as answer:
        if answer.status_code != httpx.codes.OK:
            raise ProviderUnreadable(f"{url} answered {answer.status_code}")
        async for chunk in answer.aiter_bytes():
            content += chunk
            if len(content) > DOCUMENT_BYTES_MAX:
                raise ProviderUnreadable(f"{url} has more than {DOCUMENT_BYTES_MAX} bytes")
    try:
        document = json.loads(bytes(content))
    except (ValueError, RecursionError) as error:
        raise ProviderUnreadable(f"{url} is not JSON") from error
    if not isinstance(document, dict):
        raise ProviderUnreadable(f"{url} is not a JSON object")
    return document
