"""Who calls the gateway, and what they may do: the contract between the routes and access control.

Needs no library, so that `darkroom keys` runs without the gateway's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection


class Scope(StrEnum):
    """Rights of a caller to the jobs of its own tenant."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"
    ERASE = "erase"


ALL_SCOPES = frozenset(Scope)
USUAL_SCOPES = tuple(scope for scope in Scope if scope is not Scope.ERASE)
"""The scopes of a key that is made without saying which: what cannot be undone has to be asked for."""


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller."""

    tenant: str
    name: str
    """A key's id, a token's subject or `loopback`: for logs and rate limits, never secret."""
    scopes: frozenset[Scope]


class Gatekeeper(Protocol):
    """Authenticates and authorizes callers."""

    async def identify(self, connection: HTTPConnection, scope: Scope) -> Principal:
        """Return the caller, who is known to have `scope`.

        Raises `Problem`: 401 for an unknown caller, 403 for one without the scope, 503 while the identity provider is
        away.
        """


class Quotas(Protocol):
    """Limits what a tenant may ask for. All replicas share the counts where a store for them is configured."""

    async def take_call(self, principal: Principal) -> None:
        """Count one call. Raises `Problem` 429 with `Retry-After` above the limit."""

    async def begin_job(self, principal: Principal, request_id: str) -> None:
        """Count a job as unfinished; beginning it again counts once. Raises `Problem` 429 above the limit."""

    async def end_job(self, tenant: str, request_id: str) -> None:
        """Stop counting a job. Does nothing for one that was not counted."""
