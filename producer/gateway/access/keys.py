"""API keys and their file.

A key is `dk_<id>_<secret>`; the secret is 43 characters for 256 random bits. The file keeps its SHA-256 alone. A fast
hash is right here: stretching makes weak passwords costly to guess, but 256 random bits cannot be guessed at any speed,
and a slow hash on every call would let callers keep the gateway busy.

The file has one JSON object per line, so that a broken line has a number and a new key is one more line.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from darkroom.producer.gateway.principal import Scope
from darkroom.schemas.errors import bounded
from darkroom.schemas.names import is_identity

KEYS_MAX: Final = 10_000
KEYS_BYTES_MAX: Final = 4 * 1024 * 1024
_KEY: Final = re.compile(r"dk_([a-z0-9]{4,32})_([A-Za-z0-9_-]{43})")
_ID: Final = re.compile(r"[a-z0-9]{4,32}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ID_LETTERS: Final = "abcdefghijkmnpqrstuvwxyz23456789"
_MEMBERS: Final = {"id", "tenant", "scopes", "sha256", "created", "expires", "disabled"}
_NOBODY: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key, without its secret."""

    id: str
    tenant: str
    scopes: frozenset[Scope]
    sha256: str
    created: datetime
    expires: datetime | None = None
    disabled: bool = False

    def is_active(self, now: datetime) -> bool:
        """Return whether the key is neither revoked nor expired."""
        return not self.disabled and (self.expires is None or now < self.expires)

    def line(self) -> str:
        """Return the key's line in the file."""
        entry: dict[str, Any] = {"id": self.id, "tenant": self.tenant, "scopes": sorted(self.scopes)}
        entry |= {"sha256": self.sha256, "created": _as_text(self.created)}
        if self.expires is not None:
            entry["expires"] = _as_text(self.expires)
        if self.disabled:
            entry["disabled"] = True
        return json.dumps(entry) + "\n"

    def revoked(self) -> ApiKey:
        """Return the key, revoked."""
        return replace(self, disabled=True)


class KeyRing:
    """All keys of a deployment, by their ids."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self.keys: Mapping[str, ApiKey] = {key.id: key for key in keys}

    def opened_by(self, text: str, now: datetime) -> ApiKey | None:
        """Return the active key that a text is, or None. The time that it takes does not tell how much is right."""
        form = _KEY.fullmatch(text)
        key = self.keys.get(form[1]) if form else None
        same = hmac.compare_digest(_sha256(text), _NOBODY if key is None else key.sha256)
        return key if key is not None and same and key.is_active(now) else None

    def active(self, key_id: str, now: datetime) -> ApiKey | None:
        """Return the active key of an id, or None."""
        key = self.keys.get(key_id)
        return key if key is not None and key.is_active(now) else None


def looks_like_key(text: str) -> bool:
    """Return whether a credential is meant to be one of our keys."""
    return text.startswith("dk_")


def new_key(
    tenant: str, scopes: Iterable[str], *, now: datetime, expires: datetime | None = None
) -> tuple[str, ApiKey]:
    """Return a new key's text, which cannot be recovered, and what the file keeps of it."""
    key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(10))
    text = f"dk_{key_id}_{secrets.token_urlsafe(32)}"
    return text, ApiKey(key_id, tenant, frozenset(map(Scope, scopes)), _sha256(text), now, expires)


def parse_keys(text: str) -> KeyRing:
    """Return the keys in a file's text, whose empty lines are skipped. Raises `ValueError` that names the line."""
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            key = _key(json.loads(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"line {number} is not a key: {bounded(str(error))}") from error
        if key.id in keys:
            raise ValueError(f"line {number} repeats the id {key.id}")
        keys[key.id] = key
        if len(keys) > KEYS_MAX:
            raise ValueError(f"it has more than {KEYS_MAX} keys")
    return KeyRing(keys.values())


def _key(entry: Any) -> ApiKey:
    if not isinstance(entry, dict) or (unknown := entry.keys() - _MEMBERS):
        raise ValueError("it is not an object" if not isinstance(entry, dict) else f"it has the member {min(unknown)}")
    key_id, tenant, scopes = entry.get("id"), entry.get("tenant"), entry.get("scopes")
    if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
        raise ValueError("id must be 4-32 characters of a-z0-9")
    if not is_identity(tenant):
        raise ValueError("tenant must be 1-128 characters of A-Za-z0-9._-, not starting with a dot")
    if not isinstance(scopes, list) or not scopes or not all(scope in tuple(Scope) for scope in scopes):
        raise ValueError(f"scopes must be a list of {', '.join(Scope)}")
    sha256 = entry.get("sha256")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError("sha256 must be 64 lower-case hexadecimal digits")
    disabled = entry.get("disabled", False)
    if disabled not in (True, False):
        raise ValueError("disabled must be true or false")
    expires = entry.get("expires")
    return ApiKey(
        key_id,
        str(tenant),
        frozenset(map(Scope, scopes)),
        sha256,
        _time(entry.get("created"), "created"),
        None if expires is None else _time(expires, "expires"),
        disabled,
    )


def _time(text: Any, name: str) -> datetime:
    time = datetime.fromisoformat(text) if isinstance(text, str) else None
    if time is None or time.tzinfo is None:
        raise ValueError(f"{name} must be a time with its zone, such as 2027-01-31T12:00:00Z")
    return time


def _as_text(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
