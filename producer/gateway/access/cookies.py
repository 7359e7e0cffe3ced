"""The page's cookie: who signed in, until when, under a signature. It holds no key, and the gateway holds no session.

A cookie names the key that it was given for and a part of the key's hash, so that it ends with the key, and is no
good for another one that got the same id.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Final

from darkroom.producer.gateway.access.keys import ApiKey

COOKIE_CHARACTERS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Session:
    """What a good cookie says."""

    key_id: str
    key_part: str
    tenant: str
    expires_at: float
    """Seconds since 1970."""

    def belongs_to(self, key: ApiKey) -> bool:
        """Whether it was given for this very key."""
        return key.tenant == self.tenant and key.sha256.startswith(self.key_part)


class CookieSigner:
    """Makes and reads cookies' values: `1.<what it says>.<HMAC-SHA-256>`, both in base64url."""

    def __init__(self, secret: bytes) -> None:
        # The secret may be used for something else one day: this key is for cookies alone.
        self._key = hmac.digest(secret, b"darkroom session cookie 1", hashlib.sha256)

    def sign(self, key: ApiKey, *, expires_at: float) -> str:
        """The value for whoever showed a key."""
        said = {"k": key.id, "p": key.sha256[:16], "t": key.tenant, "e": round(expires_at)}
        body = _encoded(json.dumps(said, separators=(",", ":")).encode())
        return f"1.{body}.{self._signature(body)}"

    def read(self, value: str, *, now: float) -> Session | None:
        """What a value says, where we signed it and its time is not over."""
        version, _, rest = value.partition(".")
        body, _, signature = rest.partition(".")
        if version != "1" or len(value) > COOKIE_CHARACTERS_MAX or not value.isascii():
            return None
        if not hmac.compare_digest(signature, self._signature(body)):
            return None
        try:
            said = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            session = Session(said["k"], said["p"], said["t"], float(said["e"]))
        except (ValueError, LookupError, TypeError, binascii.Error):
            return None
        return session if now < session.expires_at else None

    def _signature(self, body: str) -> str:
        return _encoded(hmac.digest(self._key, body.encode("ascii"), hashlib.sha256))


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")
