"""Signs callbacks as Standard Webhooks 1.0 has it, which receivers' libraries verify (standardwebhooks, svix)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection
from typing import Any, Final

SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - no secret, but how each begins
SECRET_BYTES_MIN: Final = 24
SECRET_BYTES_MAX: Final = 64


class SecretUnusable(Exception):  # noqa: N818 - named for what was found
    """A sentence that says why a text is no secret. It never has the text itself."""


def secret_bytes(text: Any) -> bytes:
    """Return the key that a secret encodes. Raises `SecretUnusable`."""
    if not isinstance(text, str) or not text.startswith(SECRET_PREFIX):
        raise SecretUnusable(f"a secret is a text that begins with {SECRET_PREFIX}")
    try:
        secret = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SecretUnusable(f"what follows {SECRET_PREFIX} in a secret is base64") from error
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise SecretUnusable(f"a secret encodes {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX} random bytes")
    return secret


def signed_headers(message_id: str, at_s: int, body: bytes, secrets: Collection[bytes]) -> dict[str, str]:
    """Return the headers of a callback: its id, the seconds since 1970 and a signature for each secret.

    The signature is that of `{id}.{timestamp}.{body}` with HMAC-SHA256, in base64 after `v1,`.
    """
    content = b"%s.%d.%s" % (message_id.encode(), at_s, body)
    signatures = [base64.b64encode(hmac.digest(secret, content, hashlib.sha256)).decode() for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(f"v1,{one}" for one in signatures),
    }
