"""Who calls the gateway, and what they may do: the contract between the routes and whoever guards them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from starlette.requests import HTTPConnection


class Scope(StrEnum):
    """What a caller may do, to the jobs of its own tenant."""

    SUBMIT = "submit"
    READ = "read"
    CANCEL = "cancel"


ALL_SCOPES = frozenset(Scope)


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller who is known."""

    tenant: str
    name: str
    """A key's id, a token's subject or `loopback`: for logs and rate limits, never secret."""
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope."""
        return scope in self.scopes


class Gatekeeper(Protocol):
    """Tells who calls."""

    async def identify(self, connection: HTTPConnection, scope: Scope) -> Principal:
        """Who calls, once it is known that they may do `scope`.

        Raises `Problem`: 401 where nobody can be told, 403 where the caller may not, 503 where the identity
        provider is away.
        """


class Quotas(Protocol):
    """How much a tenant may ask for. Shared by all replicas where a store for it is configured."""

    async def take_call(self, principal: Principal) -> None:
        """Count one call. Raises `Problem` 429 with `Retry-After` where there were too many."""

    async def begin_job(self, principal: Principal, request_id: str) -> None:
        """Count a job as unfinished, once however often it is begun. Raises `Problem` 429 where too many are."""

    async def end_job(self, tenant: str, request_id: str) -> None:
        """Count it no more. Nothing happens where it was not counted."""
