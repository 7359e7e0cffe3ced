"""Proves which bearer tokens are taken, against a provider's real JWKS over HTTP, and what its outages do."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from darkroom.producer.gateway.access.oidc import (
    FAILURE_PAUSE_S,
    TOKEN_CHARACTERS_MAX,
    UNKNOWN_KEY_PAUSE_S,
    ProviderKeys,
    TokenReader,
)
from darkroom.producer.gateway.principal import Principal, Scope
from darkroom.producer.gateway.problems import Problem
from tests.loopback import QuietHandler, served
from tests.producer.gateway.access.serving import ELSEWHERE, app_of, calling, settings_with

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def jwk(key: Any, kid: str, **members: str) -> dict[str, Any]:
    algorithm = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}.get(
        next((kind for kind in (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey) if isinstance(key, kind)), None),  # type: ignore[arg-type]
        "EdDSA",
    )
    found: dict[str, Any] = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": kid, "use": "sig", **members}


class Provider:
    """What the provider answers, and how often it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.is_away = False
        self.jwks: Any = {"keys": [jwk(RSA, "rsa"), jwk(EC, "ec"), jwk(ED, "ed")]}
        self.discovery: dict[str, Any] = {}

    def settings(self, **access: Any) -> Any:
        return settings_with(oidc_issuer=self.url, oidc_audience="darkroom", oidc_scope_prefix="darkroom:", **access)

    def token(
        self,
        key: Any = RSA,
        kid: str | None = "rsa",
        algorithm: str = "RS256",
        headers: dict[str, Any] | None = None,
        **claims: Any,
    ) -> str:
        now = time.time()
        good = {"iss": self.url, "aud": "darkroom", "sub": "ada", "exp": now + 60, "tenant": "studio"}
        good |= {"scope": "openid darkroom:read darkroom:submit other:cancel"}
        said = {name: value for name, value in {**good, **claims}.items() if value is not None}
        return jwt.encode(said, key, algorithm, headers={"kid": kid, **(headers or {})} if kid else headers)


@contextlib.contextmanager
def answering() -> Iterator[Provider]:
    provider = Provider()

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            provider.asked.append(self.path)
            document = {"issuer": provider.url, "jwks_uri": f"{provider.url}/jwks", **provider.discovery}
            body = json.dumps(document if "well-known" in self.path else provider.jwks).encode()
            self.send_response(500 if provider.is_away else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with served(Handler) as url:
        provider.url = url
        yield provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    with answering() as provider:
        yield provider


@pytest.fixture(scope="module")
def attacked() -> Iterator[tuple[Provider, FastAPI]]:
    """A provider and a gateway that all attacks are made on."""
    with answering() as provider:
        # 64 KiB of headers are let through to the reader: this is about tokens.
        yield provider, app_of(provider.settings(header_bytes_max=64 * 1024))


async def test_a_good_token_says_who_calls(provider: Provider) -> None:
    reader = TokenReader(provider.settings().access, ProviderKeys(provider.settings().access))
    expected = Principal("studio", "ada", frozenset({Scope.READ, Scope.SUBMIT}))
    assert await reader.principal(provider.token()) == expected
    assert await reader.principal(provider.token(algorithm="PS256")) == expected
    assert await reader.principal(provider.token(EC, "ec", "ES256")) == expected
    assert await reader.principal(provider.token(ED, "ed", "EdDSA")) == expected
    assert await reader.principal(provider.token(aud=["other", "darkroom"])) == expected
    assert await reader.principal(provider.token(exp=time.time() - 5, nbf=time.time() + 5)) == expected, "leeway"
    assert (await reader.principal(provider.token(scope=["darkroom:cancel"]))).scopes == {Scope.CANCEL}
    assert (await reader.principal(provider.token(scope={"darkroom:cancel": 1}))).scopes == frozenset()
    assert provider.asked == ["/.well-known/openid-configuration", "/jwks"], "once for all"


def unsigned(provider: Provider) -> str:
    return jwt.encode(jwt.decode(provider.token(), options={"verify_signature": False}), None, "none")


def hs256_with_the_public_key(provider: Provider) -> str:
    """The public key as an HMAC secret. Signed by hand, since the library refuses to."""
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"rsa"}').rstrip(b"=").decode()
    body = f"{header}.{provider.token().split('.')[1]}"
    signature = hmac.digest(public, body.encode(), hashlib.sha256)
    return f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def tampered(provider: Provider) -> str:
    header, body, signature = provider.token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    body = base64.urlsafe_b64encode(json.dumps({**claims, "tenant": "victim"}).encode()).rstrip(b"=").decode()
    return f"{header}.{body}.{signature}"


ATTACKS: dict[str, Callable[[Provider], str]] = {
    "alg none": unsigned,
    "alg None, signature left out": lambda p: ".".join(
        [base64.urlsafe_b64encode(b'{"alg":"None","kid":"rsa"}').rstrip(b"=").decode(), p.token().split(".")[1], ""]
    ),
    "HS256 with the public key": hs256_with_the_public_key,
    "a changed claim": tampered,
    "expired": lambda p: p.token(exp=time.time() - 3600),
    "not yet good": lambda p: p.token(nbf=time.time() + 3600),
    "without an end": lambda p: p.token(exp=None),
    "an end that is no time": lambda p: p.token(exp="soon"),
    "an end beyond all time": lambda p: p.token(exp=float("inf")),
    "another audience": lambda p: p.token(aud="payments"),
    "no audience": lambda p: p.token(aud=None),
    "another issuer": lambda p: p.token(iss="https://evil.example"),
    "no issuer": lambda p: p.token(iss=None),
    "nobody": lambda p: p.token(sub=None),
    "no key id": lambda p: p.token(kid=None),
    "an unknown key id": lambda p: p.token(STRANGER, "stranger"),
    "a stranger's key under a known id": lambda p: p.token(STRANGER, "rsa"),
    "a key for another algorithm": lambda p: p.token(EC, "rsa", "ES256"),
    "the key in the token itself": lambda p: p.token(STRANGER, "x", headers={"jwk": jwk(STRANGER, "x")}),
    "a huge token": lambda p: p.token(filler="x" * 2 * TOKEN_CHARACTERS_MAX),
    "no token": lambda p: "eyJ.eyJ.x",
    "two dots": lambda p: "..",
    "deep JSON": lambda p: base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=") + ".e30.",
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_bad_token_is_401_at_once_and_says_nothing_of_why(
    attacked: tuple[Provider, FastAPI], attack: str
) -> None:
    provider, app = attacked
    async with calling(app, ELSEWHERE) as client:
        assert (await client.get("/jobs", headers={"Authorization": f"Bearer {provider.token()}"})).status_code == 200
        token = ATTACKS[attack](provider)
        started = time.process_time()
        answer = await client.get("/jobs", headers={"Authorization": f"Bearer {token}"})
        assert time.process_time() - started < 0.5
    assert answer.status_code == 401
    assert answer.json()["code"] == "credential_invalid"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("tenant", [None, "../other", 7, ["a"], ""])
async def test_a_token_without_a_tenant_is_403(provider: Provider, tenant: Any) -> None:
    async with calling(app_of(provider.settings())) as client:
        token = provider.token(tenant=tenant)
        answer = await client.get("/jobs", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()["code"]) == (403, "tenant_missing")


# --- The provider's keys --------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def found(keys: ProviderKeys, kid: str) -> bool | int:
    """Whether a key is there; the status where nobody can tell."""
    try:
        return await keys.find(kid) is not None
    except Problem as problem:
        return problem.status.value if "Retry-After" in problem.headers else False


async def test_a_new_key_is_found_and_unknown_ones_are_asked_for_once_a_minute(provider: Provider) -> None:
    clock = Clock()
    keys = ProviderKeys(provider.settings(oidc_jwks_url=f"{provider.url}/jwks").access, clock=clock)
    assert await found(keys, "rsa") is True
    provider.jwks = {"keys": [jwk(RSA, "rotated")]}
    assert await found(keys, "rotated") is True, "its unknown id has the keys fetched"
    assert len(provider.asked) == 2
    for number in range(50):
        assert await found(keys, f"guess-{number}") is False
    assert len(provider.asked) == 2
    clock.now += UNKNOWN_KEY_PAUSE_S
    assert await found(keys, "guess") is False
    assert len(provider.asked) == 3


async def test_keys_stay_for_a_bounded_while_when_the_provider_is_away(provider: Provider) -> None:
    clock, failures = Clock(), list[int]()
    access = provider.settings(
        oidc_jwks_url=f"{provider.url}/jwks", oidc_keys_ttl_s=100, oidc_keys_stale_s_max=1000
    ).access
    keys = ProviderKeys(access, clock=clock, on_failure=lambda: failures.append(1))
    assert await found(keys, "rsa") is True
    provider.is_away = True
    clock.now += 101
    assert await found(keys, "rsa") is True
    asked = len(provider.asked)
    assert await found(keys, "rsa") is True
    assert len(provider.asked) == asked, "nobody waits for it again so soon"
    clock.now += 1001
    assert await found(keys, "rsa") == 503
    provider.is_away = False
    clock.now += FAILURE_PAUSE_S
    assert await found(keys, "rsa") is True
    assert len(failures) == 2


@pytest.mark.parametrize(
    "jwks",
    [
        [],
        {"keys": 3},
        {"keys": [{}] * 101},
        {"keys": [jwk(RSA, "rsa")], "filler": "x" * 600_000},
    ],
)
async def test_what_is_no_jwks_is_as_good_as_none(provider: Provider, jwks: Any) -> None:
    provider.jwks = jwks
    assert await found(ProviderKeys(provider.settings().access), "rsa") == 503


async def test_unusable_and_symmetric_keys_are_passed_over(provider: Provider) -> None:
    secret = {"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"}
    broken = {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"}
    odd: list[Any] = [
        {"kty": "RSA", "kid": "odd", "n": 7, "e": None},
        {"kty": ["RSA"], "kid": "odd", "n": "AQAB", "e": {}},
        {"kty": "EC", "kid": "odd", "crv": ["P-256"], "x": 7, "y": "AA"},
        {"kty": "OKP", "kid": "odd", "crv": {"a": 1}, "x": []},
        {"kty": "RSA", "kid": "odd", "n": "AQAB", "e": "AQAB", "d": 7, "oth": 3},
    ]
    encrypting = jwk(RSA, "encrypting") | {"use": "enc"}
    provider.jwks = {"keys": [secret, broken, *odd, encrypting, jwk(RSA, "rsa", alg="RS256"), 7]}
    keys = ProviderKeys(provider.settings().access)
    usable = await keys.find("rsa")
    assert usable is not None
    assert set(usable) == {"RS256"}
    assert [await keys.find(kid) or {} for kid in ("secret", "broken", "odd", "encrypting")] == [{}] * 4


@pytest.mark.parametrize("discovery", [{"issuer": "https://evil.example"}, {"jwks_uri": 7}])
async def test_a_discovery_document_of_somebody_else_is_not_followed(provider: Provider, discovery: Any) -> None:
    provider.discovery = discovery
    assert await found(ProviderKeys(provider.settings().access), "rsa") == 503
    assert provider.asked == ["/.well-known/openid-configuration"]


async def test_a_provider_that_was_never_reached_is_503_and_counted() -> None:
    settings = settings_with(oidc_issuer="http://127.0.0.1:1", oidc_audience="darkroom")
    registry = CollectorRegistry()
    provider = Provider()
    async with calling(app_of(settings, registry)) as client:
        answer = await client.get("/jobs", headers={"Authorization": f"Bearer {provider.token()}"})
    assert (answer.status_code, answer.json()["code"]) == (503, "identity_provider_away")
    assert answer.headers["retry-after"]
    assert registry.get_sample_value("darkroom_access_provider_failures_total") == 1
