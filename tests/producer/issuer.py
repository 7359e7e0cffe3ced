"""An OpenID provider on loopback: publishes its key, signs tokens, and gives them for client credentials.

The token endpoint answers as RFC 6749 sections 4.4 and 5 say, and takes an assertion as RFC 7523 says.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.loopback import QuietHandler, served

AUDIENCE: Final = "darkroom"
CLIENT, SECRET = "worker one", "a secret: with/odd+characters%"
ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class Issuer:
    """The provider. What it answers can be changed while it runs."""

    def __init__(self, subject: str = "pod") -> None:
        self._key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        self.subject = subject
        self.url = ""
        self.answers = 0
        """Tokens that the endpoint gave."""
        self.life_s = 3600.0
        self.claims: dict[str, Any] = {}
        """Others than the right ones, in tokens of the endpoint."""
        self.tells_life = True
        self.is_away = False
        self.goes_on = threading.Event()
        """Cleared, answers of the token endpoint are held back."""
        self.goes_on.set()

    def token(self, *, life_s: float = 3600, **claims: Any) -> str:
        """A token for this audience; `claims` are others than the right ones."""
        now = time.time()
        right = {"iss": self.url, "aud": AUDIENCE, "sub": self.subject, "iat": now, "exp": now + life_s}
        return jwt.encode(right | claims, self._key, algorithm="RS256", headers={"kid": "one"})

    @property
    def keys_url(self) -> str:
        """Where its key is."""
        return f"{self.url}/keys"

    @property
    def token_url(self) -> str:
        """The token endpoint."""
        return f"{self.url}/oauth/token"

    @contextmanager
    def serving(self, identity: Path | None = None) -> Iterator[None]:
        """Serve on a free port, by TLS with an `identity`. `url` is the issuer's name from now on."""
        issuer = self

        class Handler(QuietHandler):
            def do_GET(self) -> None:  # noqa: N802 - as the base class looks for it
                found = issuer.documents().get(self.path)
                answer(self, 404 if found is None else 200, json.dumps(found).encode(), "application/json")

            def do_POST(self) -> None:  # noqa: N802 - as above
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                issuer.goes_on.wait(60)
                fields = {name: values[0] for name, values in parse_qs(body).items()}
                status, said = issuer.exchange(self.headers.get("Authorization"), fields)
                answer(self, status, json.dumps(said).encode(), "application/json")

        with served(Handler, identity) as self.url:
            yield

    def documents(self) -> dict[str, Any]:
        """What it publishes, by path."""
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        return {
            "/keys": {"keys": [public | {"kid": "one", "use": "sig", "alg": "RS256"}]},
            "/.well-known/openid-configuration": {
                "issuer": self.url,
                "jwks_uri": self.keys_url,
                "token_endpoint": self.token_url,
            },
        }

    def exchange(self, authorization: str | None, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """The token endpoint's answer: status and document."""
        if self.is_away:
            return 503, {}
        if fields.get("grant_type") != "client_credentials":
            return 400, {"error": "unsupported_grant_type"}
        if not self._knows(authorization, fields):
            return 401, {"error": "invalid_client", "error_description": "unknown client or wrong secret"}
        if fields.get("scope", "kafka") != "kafka":
            return 400, {"error": "invalid_scope", "error_description": f"no scope {fields['scope']}"}
        self.answers += 1
        said = {"access_token": self.token(life_s=self.life_s, **self.claims), "token_type": "Bearer"}
        return 200, said | ({"expires_in": int(self.life_s)} if self.tells_life else {})

    def _knows(self, authorization: str | None, fields: dict[str, str]) -> bool:
        if fields.get("client_assertion_type") == ASSERTION_TYPE:
            try:
                jwt.decode(fields["client_assertion"], self._key.public_key(), ["RS256"], audience=AUDIENCE)
            except jwt.PyJWTError:
                return False
            return fields.get("client_id") == CLIENT
        kind, _, text = (authorization or "").partition(" ")
        if kind != "Basic":
            return False
        client, _, secret = base64.b64decode(text).decode().partition(":")
        return (unquote(client), unquote(secret)) == (CLIENT, SECRET)


def answer(handler: QuietHandler, status: int, body: bytes, kind: str) -> None:
    """Send an answer of a fixed length."""
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
