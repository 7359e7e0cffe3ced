"""The identity provider's public keys: fetched within bounds, kept for a while, and kept longer while it is away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx
import jwt
import structlog

from darkroom.producer.gateway.access.refusals import provider_away
from darkroom.producer.outages import IDENTITY_PROVIDER
from darkroom.schemas.errors import bounded
from darkroom.schemas.settings.access import AccessSettings

log = structlog.get_logger(__name__)

DOCUMENT_BYTES_MAX: Final = 512 * 1024
KEYS_MAX: Final = 100
UNKNOWN_KEY_PAUSE_S: Final = 60.0
"""A token with a key that nobody knows has them fetched again, once in so long: anybody can write such a token."""
FAILURE_PAUSE_S: Final = 10.0
"""How long nobody waits for a provider that was just away."""
ALGORITHMS: Final = ("RS256", "PS256", "ES256", "EdDSA")
"""Asymmetric ones alone: with HS256 among them, the public key would be a password that everybody knows."""
_KINDS: Final = {"RSA": ("RS256", "PS256"), "EC": ("ES256",), "OKP": ("EdDSA",)}

ProviderKey = Mapping[str, jwt.PyJWK]
"""One public key, for each algorithm that it may be used with."""


class ProviderUnreadable(Exception):  # noqa: N818 - said of its answer
    """The provider answered something else than it should."""


class ProviderKeys:
    """The keys by their ids. Fetches one at a time."""

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
        self._tls = httpx.create_ssl_context(trust_env=False)  # once: it reads all authorities, and calls would wait
        self._fetches = 0
        self._fetching = asyncio.Lock()

    async def find(self, key_id: str) -> ProviderKey | None:
        """The key of an id; None where the provider has none. Raises `Problem` 503 where nobody can tell."""
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
        """Fetch the keys, unless somebody did meanwhile or the provider was just away. Never raises."""
        fetches = self._fetches
        async with self._fetching:
            if self._fetches != fetches or self._clock() - self._failed_at < FAILURE_PAUSE_S:
                return
            self._fetches += 1
            try:
                async with asyncio.timeout(self._settings.oidc_timeout_s):
                    keys = await self._fetch()
            except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ProviderUnreadable) as error:
                IDENTITY_PROVIDER.failed("keys", f"its keys were not fetched: {bounded(str(error) or repr(error))}")
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
            raise ProviderUnreadable(f"{url} holds no list of at most {KEYS_MAX} keys")
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
            raise ProviderUnreadable("the discovery document names keys without https")
        return url


def _key(entry: dict[str, Any]) -> ProviderKey:
    """Ready for each algorithm that the key is for; for none where it is unusable or of another kind."""
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
        raise ProviderUnreadable(f"{url} is no JSON object")
    return document
