"""Reads the operator's file of tenants that may have callbacks.

    [tenants.studio]
    secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]
    url = "https://studio.example/darkroom"    # optional: gets all jobs without a callback_url of their own

Two secrets sign each callback twice, so that a receiver can change from one to the other (Standard Webhooks 1.0).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from darkroom.producer.callbacks.addresses import Addressees, AddressRefused
from darkroom.producer.callbacks.signing import SecretUnusable, secret_bytes
from darkroom.schemas.errors import SettingsError, bounded
from darkroom.schemas.names import is_identity
from darkroom.schemas.settings.hooks import HooksSettings

FILE_BYTES_MAX: Final = 1024 * 1024
"""Some thousand tenants."""
SECRETS_MAX: Final = 4
"""Secrets of a tenant: the old and the new one, with room to spare."""
_MEMBERS: Final = frozenset({"secrets", "url"})


@dataclass(frozen=True, slots=True)
class Receiver:
    """A tenant that may have callbacks."""

    secrets: tuple[bytes, ...]
    url: str | None
    """Where its completions go unless a request says otherwise."""


class _UnusableError(Exception):
    """A sentence that says what is wrong with the file."""


def read_receivers(settings: HooksSettings) -> Mapping[str, Receiver]:
    """Return the tenants of the settings' file, none without one. Raises `SettingsError` for an unusable file."""
    if settings.file is None:
        return {}
    try:
        with settings.file.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        return _parsed(content, Addressees(settings.allowed_networks))
    except OSError as error:
        why = error.strerror or "it cannot be read"
    except UnicodeDecodeError:
        why = "it is not UTF-8 text"
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = f"it is not TOML ({error})"
    except _UnusableError as error:
        why = str(error)
    raise SettingsError(
        f"The file of callbacks {settings.file} cannot be used: {why}. Correct it, or DARKROOM_HOOKS__FILE."
    )


def _parsed(content: bytes, addressees: Addressees) -> dict[str, Receiver]:
    if len(content) > FILE_BYTES_MAX:
        raise _UnusableError(f"it has more than {FILE_BYTES_MAX} bytes")
    document = tomllib.loads(content.decode("utf-8"))
    if unknown := document.keys() - {"tenants"}:
        raise _UnusableError(f"it has {bounded(min(unknown), 60)} beside [tenants.NAME]")
    tenants = document.get("tenants", {})
    if not isinstance(tenants, dict):
        raise _UnusableError("tenants is no table; write [tenants.NAME]")
    return {name: _receiver(name, table, addressees) for name, table in tenants.items()}


def _receiver(name: str, table: Any, addressees: Addressees) -> Receiver:
    where = f"[tenants.{bounded(name, 60)}]"
    if not is_identity(name):
        raise _UnusableError(f"{where} is not a tenant's name")
    if not isinstance(table, dict):
        raise _UnusableError(f"{where} is no table")
    if unknown := table.keys() - _MEMBERS:
        raise _UnusableError(f"{where} has {bounded(min(unknown), 60)}, which is neither secrets nor url")
    secrets, url = table.get("secrets"), table.get("url")
    if not isinstance(secrets, list) or not 1 <= len(secrets) <= SECRETS_MAX:
        raise _UnusableError(f"{where} needs secrets, a list of 1 to {SECRETS_MAX} texts that begin with whsec_")
    try:
        if url is not None:
            addressees.check(url)
        return Receiver(tuple(secret_bytes(one) for one in secrets), url)
    except (SecretUnusable, AddressRefused) as error:
        raise _UnusableError(f"{where}: {error}") from error
