"""Tokens with which clients log in by OAUTHBEARER: fetched by client credentials, held for all clients of a process.

The log-in is RFC 7628, the fetch RFC 6749 section 4.4 with a secret or, by RFC 7523, an assertion in a file; the token
service is named, or found by its issuer (OpenID Connect Discovery 1.0). aiokafka 0.14 asks for a token at each
connection, and an exception that is not Kafka's would end a client for good: here each becomes `TokenUnavailable`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import ssl
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

import aiokafka.conn
import urllib3
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import OAuthAuthenticator
from aiokafka.errors import KafkaError, SaslAuthenticationFailed
from pydantic import SecretStr
from typing_extensions import override
from urllib3.util import Timeout

from darkroom.producer.kafka.tls import TOKENS, client_context, trouble_of
from darkroom.producer.renewing import Ended, Lease, Renewing
from darkroom.schemas.errors import bounded

if TYPE_CHECKING:
    from darkroom.schemas.settings import KafkaSettings

__all__ = ["TokenProvider", "TokenUnavailable", "provider_for", "token_error"]

CONNECT_S_MAX: Final = 3.0
READ_S_MAX: Final = 5.0
LIFE_S_UNKNOWN: Final = 300.0
"""A token whose service tells no end (RFC 6749 lets it) and which is no JWT is renewed within so long."""
ANSWER_BYTES_MAX: Final = 256 * 1024
ASSERTION_BYTES_MAX: Final = 64 * 1024
_SAID_CHARACTERS_MAX: Final = 300
_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_SERVICES_MAX: Final = 8
"""Token services whose tokens are held: a process has one, tests have more."""


class TokenUnavailable(KafkaError):  # type: ignore[misc]  # noqa: N818 - named for what happened
    """There is no token: one sentence with the remedy. Clients try again, as after any failure to connect."""

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}. {remedy}")
        self.what = what
        """The end of "... because", without a full stop."""
        self.remedy = remedy


class _Refused(Exception):  # noqa: N818 - as above
    """The token service answered without a token."""


class _Source(NamedTuple):
    """The settings that a token depends on."""

    url: str | None
    issuer: str | None
    client_id: str
    secret: SecretStr | None
    assertion_file: Path | None
    scope: str | None
    ca_file: Path | None

    @property
    def service(self) -> str:
        return self.url or self.issuer or ""


class _Tokens:
    """The tokens of one source, for all clients of the process."""

    def __init__(self, source: _Source) -> None:
        self.held = Renewing("kafka-token", _Fetch(source), failure=lambda error: _failure(source, error))
        self.refusal: SaslAuthenticationFailed | None = None
        """What a broker said against the token that it was shown last; None once one is taken."""


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """The tokens as one client sees them."""

    def __init__(self, tokens: _Tokens) -> None:
        self._tokens = tokens
        self._shown: str | None = None

    @override
    async def token(self) -> str:
        """Return a valid token. Raises `TokenUnavailable`."""
        try:
            self._shown = self._tokens.held.held()
        except TokenUnavailable:
            self._shown = await asyncio.to_thread(self._tokens.held.current)
        return self._shown

    def refused(self, error: SaslAuthenticationFailed) -> None:
        """Take note of what a broker says against the token."""
        self._tokens.refusal = error

    def tried(self, *, connected: bool) -> None:
        """Take note of how an attempt to connect ended. Begins to fetch another token where one was shown in vain."""
        shown, self._shown = self._shown, None
        if shown is not None and connected:
            self._tokens.refusal = None
        elif shown is not None:
            self._tokens.held.renew(shown)


class _Authenticator(OAuthAuthenticator):  # type: ignore[misc]
    """Reads a broker's refusal. aiokafka 0.14 takes it for success, and the connection fails later for no reason given.

    RFC 7628 section 3.2.2: the answer to a token that is taken is empty, to any other it is a JSON document.
    """

    async def step(self, payload: bytes | None) -> Any:
        """As the base class. Raises `SaslAuthenticationFailed` with what the broker says."""
        if self._token_sent and payload:
            error = SaslAuthenticationFailed(payload.decode("utf-8", "replace"))
            if isinstance(self._sasl_oauth_token_provider, TokenProvider):
                self._sasl_oauth_token_provider.refused(error)
            raise error
        return await super().step(payload)


def provider_for(kafka: KafkaSettings) -> TokenProvider:
    """Return the tokens for one client. All clients with the same settings share one holder."""
    aiokafka.conn.OAuthAuthenticator = _Authenticator  # connections make it by this name
    return TokenProvider(_tokens(_source(kafka)))


def token_error(kafka: KafkaSettings) -> KafkaError | None:
    """Return why clients with these settings are not let in for want of a token that a broker takes, if that is why."""
    if kafka.sasl_mechanism != "OAUTHBEARER":
        return None
    tokens = _tokens(_source(kafka))
    error = tokens.held.error
    return error if isinstance(error, KafkaError) else tokens.refusal


def _source(kafka: KafkaSettings) -> _Source:
    assert kafka.oauth_client_id is not None
    return _Source(
        kafka.oauth_token_url,
        kafka.oauth_issuer,
        kafka.oauth_client_id,
        kafka.oauth_client_secret,
        kafka.oauth_assertion_file,
        kafka.oauth_scope,
        kafka.oauth_ca_file,
    )


def _claims_of(token: str) -> dict[str, Any]:
    """Return what a JWT says of itself, unverified, for a sentence; empty for any other token."""
    try:
        part = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, binascii.Error, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}


@lru_cache(maxsize=_SERVICES_MAX)
def _tokens(source: _Source) -> _Tokens:
    return _Tokens(source)


class _Fetch:
    """One exchange with the token service; for one thread at a time."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        is_secure = source.service.startswith("https:")
        self._http = urllib3.PoolManager(
            num_pools=2,
            timeout=Timeout(connect=CONNECT_S_MAX, read=READ_S_MAX),
            retries=False,
            ssl_context=client_context(TOKENS, source.ca_file) if is_secure else None,
        )
        self._url = source.url

    def __call__(self, _: bool) -> Lease[str]:
        source = self._source
        if self._url is None:
            self._url = self._discovered()
        fields = {"grant_type": "client_credentials"}
        headers = {}
        if source.scope is not None:
            fields["scope"] = source.scope
        if source.secret is not None:
            # RFC 6749 section 2.3.1: both parts are form-encoded before they are joined.
            both = f"{quote(source.client_id, safe='')}:{quote(source.secret.get_secret_value(), safe='')}"
            headers["Authorization"] = f"Basic {base64.b64encode(both.encode()).decode()}"
        if source.assertion_file is not None:
            fields |= {
                "client_id": source.client_id,
                "client_assertion_type": _ASSERTION_TYPE,
                "client_assertion": _assertion_in(source.assertion_file),
            }
        answer = self._ask("POST", self._url, fields=fields, headers=headers, encode_multipart=False)
        token = answer.get("access_token")
        # RFC 6750 section 2.1 says what a token is made of; anything else would break the message that carries it.
        if not isinstance(token, str) or not token or not token.isascii() or any(one <= " " for one in token):
            raise _Refused("its answer has no access_token")
        return Lease(token, _end_of(token, answer.get("expires_in")))

    def _discovered(self) -> str:
        issuer = (self._source.issuer or "").rstrip("/")
        found = self._ask("GET", f"{issuer}/.well-known/openid-configuration")
        url = found.get("token_endpoint")
        if str(found.get("issuer", "")).rstrip("/") != issuer:
            raise _Refused(f"it is the issuer {found.get('issuer')} and not {issuer}")
        if not isinstance(url, str) or not url.startswith(("https://", "http://")):
            raise _Refused("its openid-configuration names no token_endpoint")
        return url

    def _ask(self, method: str, url: str, **more: Any) -> dict[str, Any]:
        response = self._http.request(method, url, redirect=False, preload_content=False, **more)
        try:
            body = response.read(ANSWER_BYTES_MAX)
        finally:
            response.release_conn()
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if response.status != 200:
            told = found if isinstance(found, dict) else {}
            said = ": ".join(str(told[name]) for name in ("error", "error_description") if told.get(name))
            raise _Refused(f"HTTP {response.status}{f', {said}' if said else ''}")
        if not isinstance(found, dict):
            raise _Refused("it answers with no JSON object")
        return found


def _assertion_in(file: Path) -> str:
    with file.open(encoding="utf-8") as opened:
        text = opened.read(ASSERTION_BYTES_MAX + 1).strip()
    if not text or len(text) > ASSERTION_BYTES_MAX:
        raise OSError(f"{file} does not hold an assertion, or is being written")
    return text


def _end_of(token: str, expires_in: object) -> float:
    """Return when a token ends, in seconds since 1970. Some services write `expires_in` as text."""
    now = time.time()
    try:
        return now + float(str(expires_in))
    except ValueError:
        ends = _claims_of(token).get("exp")
        return float(ends) if isinstance(ends, int | float) else now + LIFE_S_UNKNOWN


def _failure(source: _Source, error: Exception) -> TokenUnavailable:
    said = bounded(str(error) or type(error).__name__, _SAID_CHARACTERS_MAX)
    where = f"no token for the client {source.client_id} came from {source.service}"
    if isinstance(error, Ended):
        return TokenUnavailable(f"{where}: {error}", "Set this machine's clock and the token service's by NTP.")
    if isinstance(error, _Refused):
        return TokenUnavailable(f"{where} ({said})", _remedy_for(said))
    if (tls := trouble_of(TOKENS, error)) is not None:
        return TokenUnavailable(f"{where}: {tls.what}", tls.remedy)
    if isinstance(error, ssl.SSLError | urllib3.exceptions.HTTPError | TimeoutError):
        said = bounded(f"{type(error).__name__}: {error}", _SAID_CHARACTERS_MAX)
        return TokenUnavailable(
            f"{where}, which did not answer ({said})",
            "Check that it runs, that DARKROOM_KAFKA__OAUTH_TOKEN_URL or __OAUTH_ISSUER is its address, and that this "
            "machine may reach it.",
        )
    if isinstance(error, OSError | UnicodeDecodeError):
        return TokenUnavailable(
            f"the assertion of DARKROOM_KAFKA__OAUTH_ASSERTION_FILE cannot be read ({said})",
            "Check the path, its rights, and what writes it.",
        )
    return TokenUnavailable(f"{where} ({type(error).__name__}: {said})", "Check the DARKROOM_KAFKA__OAUTH settings.")


def _remedy_for(said: str) -> str:
    if "invalid_scope" in said:
        return "Let DARKROOM_KAFKA__OAUTH_SCOPE name scopes that the client may have."
    if "unauthorized_client" in said or "unsupported_grant_type" in said:
        return "Allow the client the grant client_credentials at the token service."
    if "invalid_client" in said or "HTTP 401" in said or "HTTP 403" in said:
        return (
            "Check DARKROOM_KAFKA__OAUTH_CLIENT_ID and __OAUTH_CLIENT_SECRET (or _FILE), or the issuer, audience and "
            "end of the token in __OAUTH_ASSERTION_FILE."
        )
    return "Check that DARKROOM_KAFKA__OAUTH_TOKEN_URL is the token endpoint, or __OAUTH_ISSUER the issuer's address."
