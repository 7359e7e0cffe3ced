"""The gateway without keys: whoever is on this machine may do everything, as the default tenant, and nobody else."""

from __future__ import annotations

import ipaddress
from http import HTTPStatus

from starlette.requests import HTTPConnection

from producer.gateway.principal import ALL_SCOPES, Principal, Scope
from producer.gateway.problems import Problem
from schemas.names import DEFAULT_TENANT
from schemas.request import GenerationRequest

_LOOPBACK = Principal(DEFAULT_TENANT, "loopback", ALL_SCOPES)


class LoopbackOnly:
    """A `Gatekeeper` that knows the callers of this machine alone."""

    async def identify(self, connection: HTTPConnection, scope: Scope) -> Principal:  # noqa: ARG002 - they have all
        """As the protocol says; 401 for whoever calls from elsewhere."""
        if connection.client is not None and _is_loopback(connection.client.host):
            return _LOOPBACK
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "no_keys_configured",
            "No keys are configured, so only callers on the gateway's own machine are served.",
            "Have keys configured and send one, or call from the machine itself.",
        )


class NoQuotas:
    """`Quotas` without limits."""

    async def take_call(self, principal: Principal) -> None:
        """Nothing is counted."""

    async def begin_job(self, principal: Principal, request_id: str) -> None:
        """Nothing is counted."""

    async def end_job(self, tenant: str, request_id: str) -> None:
        """Nothing is counted."""


def any_prompt(request: GenerationRequest) -> Problem | None:  # noqa: ARG001 - every request is allowed
    """A prompt policy that allows everything."""
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
