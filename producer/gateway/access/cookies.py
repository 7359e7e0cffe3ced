"""The page's session cookie: who signed in, and until when, signed. It holds no key, and the gateway no session.

A cookie names the key that it was issued for and a part of the key's hash. So it ends with the key, and is worthless
for another key of the same id.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from itsdangerous import BadData, URLSafeSerializer

from darkroom.producer.gateway.access.keys import ApiKey

COOKIE_NAME: Final = "darkroom_session"
SECURE_COOKIE_NAME: Final = "__Host-darkroom_session"
"""Browsers accept a cookie of this prefix from this host alone, and over https alone: no neighbour can plant one."""
COOKIE_CHARACTERS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Session:
    """The content of a valid cookie."""

    key_id: str
    key_part: str
    tenant: str
    expires_at: float
    """Seconds since 1970."""

    def belongs_to(self, key: ApiKey) -> bool:
        """Return whether the cookie was issued for this very key."""
        return key.tenant == self.tenant and key.sha256.startswith(self.key_part)


class CookieSigner:
    """Writes and reads cookies' values, signed with HMAC-SHA-256 by a key derived from `secret` for cookies alone.

    The end is in the signed content rather than measured from the time of signing, as itsdangerous would: a session
    ends no later than its key.
    """

    def __init__(self, secret: bytes) -> None:
        self._serializer = URLSafeSerializer(
            secret,
            salt="darkroom session cookie",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def sign(self, key: ApiKey, *, expires_at: float) -> str:
        """Return the cookie's value for a caller who showed a key. `expires_at` is in seconds since 1970."""
        value = self._serializer.dumps([key.id, key.sha256[:16], key.tenant, round(expires_at)])
        assert isinstance(value, str)
        return value

    def read(self, value: str, *, now: float) -> Session | None:
        """Return the content of a value that was signed here and has not expired."""
        if len(value) > COOKIE_CHARACTERS_MAX:
            return None
        try:
            session = Session(*self._serializer.loads(value))
        except (BadData, ValueError, TypeError):
            return None
        return session if now < session.expires_at else None
